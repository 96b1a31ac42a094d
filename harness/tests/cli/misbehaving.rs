//! Servers that misbehave: each ends in a verdict or an error that says what is wrong. None of them hangs the
//! harness, none makes it panic, none passes, and none spoils the run of another.

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::servers::{DRAINSPEC, GOOD, PATIENCE, Servers, pids, runs, toml};

/// A server, the verdict that it deserves, and what the reason must say.
struct Case {
    name: &'static str,
    script: &'static str,
    verdict: &'static str,
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "silent",
        script: "time.sleep(300)",
        verdict: "error",
        says: &["printed no `listening` line within", "nothing on standard error"],
    },
    Case {
        name: "complains-and-waits",
        script: "print('no database', file=sys.stderr, flush=True)\ntime.sleep(300)",
        verdict: "error",
        says: &["printed no `listening` line within", "no database"],
    },
    Case {
        name: "ends-at-once",
        script: "sys.exit('PORT is taken')",
        verdict: "error",
        says: &["exit status 1 before it listened", "PORT is taken"],
    },
    Case {
        name: "ends-at-once-with-0",
        script: "",
        verdict: "error",
        says: &["exit status 0 before it listened", "nothing on standard error"],
    },
    Case {
        name: "dies-at-once",
        script: "os.kill(os.getpid(), signal.SIGSEGV)\ntime.sleep(300)",
        verdict: "error",
        says: &["signal 11 before it listened"],
    },
    Case {
        name: "chats-first",
        script: "print('Starting up…', flush=True)\nlisten()\ntime.sleep(300)",
        verdict: "error",
        says: &["not a `listening` event", "Starting up…"],
    },
    Case {
        name: "prints-bytes",
        script: "sys.stdout.buffer.write(bytes(range(256)) + b'\\n')\nsys.stdout.flush()\ntime.sleep(300)",
        verdict: "error",
        says: &["not a `listening` event"],
    },
    Case {
        name: "names-no-port",
        script: "say(event='listening', port='high', instance='one')\ntime.sleep(300)",
        verdict: "error",
        says: &["not a `listening` event", "high"],
    },
    Case {
        name: "does-not-listen",
        script: "say(event='listening', port=1, instance='one')\ntime.sleep(300)",
        verdict: "inconclusive",
        says: &["the server answers", "refused"],
    },
    Case { name: "ends-after-listening", script: "listen()", verdict: "inconclusive", says: &["the server answers"] },
    Case {
        name: "never-accepts",
        script: "listener = listen()\ntime.sleep(300)",
        verdict: "inconclusive",
        says: &["the server answers", "waiting in vain"],
    },
    Case {
        name: "closes-at-once",
        script: "listener = listen()\nwhile True: listener.accept()[0].close()",
        verdict: "inconclusive",
        // Before the request was sent or after it: both happen.
        says: &["the server answers"],
    },
    Case {
        name: "answers-garbage",
        script: r"
listener = listen()
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(bytes(range(256)) * 4 + b'\r\n\r\n')
    connection.close()
",
        verdict: "inconclusive",
        says: &["the server answers", "not HTTP"],
    },
    Case {
        name: "answers-for-ever",
        script: r"
listener = listen()
connection, _ = listener.accept()
connection.recv(65536)
connection.sendall(b'HTTP/1.1 200 OK\r\n')
try:
    while True: connection.sendall(b'X-More: ' + b'x' * 1000 + b'\r\n')
except OSError:
    time.sleep(300)
",
        verdict: "inconclusive",
        says: &["the server answers"],
    },
    Case {
        name: "promises-more-than-it-sends",
        script: r"
listener = listen()
while True:
    connection, _ = listener.accept()
    answer(connection, length=1000000)
    connection.close()
",
        verdict: "inconclusive",
        says: &["the server answers", "no complete response"],
    },
    Case {
        name: "another-answers",
        script: r#"
listener = listen("one")
while True:
    connection, _ = listener.accept()
    answer(connection, "two")
    connection.close()
"#,
        verdict: "error",
        says: &["instance one", "two answers", "another one still running"],
    },
    Case {
        name: "nobody-in-particular-answers",
        script: r"
listener = listen()
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
    connection.close()
",
        verdict: "error",
        says: &["instance one", "somebody without an instance id"],
    },
    Case {
        name: "ignores-sigterm",
        script: r"
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = listen()
while True:
    connection, _ = listener.accept()
    answer(connection)
    connection.close()
",
        verdict: "fail",
        says: &["term-ends-process", "the process had not ended"],
    },
    Case {
        name: "lingers",
        script: r"
on_term(lambda: (time.sleep(8), os._exit(0)))
listener = listen()
while True:
    connection, _ = listener.accept()
    answer(connection)
    connection.close()
",
        verdict: "fail",
        says: &["term-ends-process", "where 1.00 s and 3.00 s of slack are allowed"],
    },
    Case {
        name: "ends-with-3",
        script: r"
on_term(lambda: os._exit(3))
listener = listen()
while True:
    connection, _ = listener.accept()
    answer(connection)
    connection.close()
",
        verdict: "warn",
        says: &["clean-exit-status", "exit status 3"],
    },
    Case {
        // Its child holds the pipes of its output, and does not care for signals.
        name: "leaves-a-child",
        script: r"
child(detached=False)
on_term(lambda: os._exit(0))
listener = listen()
while True:
    connection, _ = listener.accept()
    answer(connection)
    connection.close()
",
        verdict: "pass",
        says: &[],
    },
    Case {
        // As above, and it has left the process group.
        name: "leaves-a-daemon",
        script: r"
child(detached=True)
on_term(lambda: os._exit(0))
listener = listen()
while True:
    connection, _ = listener.accept()
    answer(connection)
    connection.close()
",
        verdict: "pass",
        says: &[],
    },
    Case { name: "in-order", script: GOOD, verdict: "pass", says: &[] },
];

/// All at once: the time that each takes to be given up is mostly spent waiting.
#[test]
fn each_gets_its_verdict() {
    let servers = Servers::new();
    for case in CASES {
        servers.add(case.name, case.script);
    }
    servers.add_toml("not-there", &toml("framework", "[\"./no-such-program\"]", ""));
    let began = Instant::now();
    let done = servers.matrix("*", "idle-exit").args(["--jobs", "32"]).assert().code(1);
    // 20 s for those that say nothing or do not end, and what a busy machine adds: what it leaves open is played again.
    assert!(began.elapsed() < PATIENCE, "took {:?}", began.elapsed());
    let words = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert!(!words.contains("panicked"), "{words}");

    let cells = servers.results()["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), CASES.len() + 1, "every server has its cell");
    let mut wrong = Vec::new();
    for case in CASES {
        let cell = servers.cell(case.name);
        let reason = cell["reason"].as_str().unwrap_or_default();
        if cell["verdict"] != case.verdict {
            wrong.push(format!("{}: {} instead of {}: {reason}", case.name, cell["verdict"], case.verdict));
        }
        let missing = case.says.iter().filter(|word| !reason.contains(**word));
        wrong.extend(missing.map(|word| format!("{}: {word:?} is not in {reason:?}", case.name)));
        let expected = matches!(case.verdict, "pass" | "warn");
        if cell["as_expected"] != expected {
            wrong.push(format!("{}: as_expected is {}", case.name, cell["as_expected"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let cell = servers.cell("not-there");
    assert_eq!(cell["verdict"], "error");
    assert!(cell["reason"].as_str().unwrap().contains("`./no-such-program` cannot be started"), "{cell:#}");

    // What they leave behind is cleaned up.
    for name in ["leaves-a-child", "leaves-a-daemon"] {
        let children = pids(&servers.servers().join(name));
        assert!(!children.is_empty(), "{name} has left nobody");
        for pid in children {
            assert!(!runs(pid), "{name}: process {pid} is still there");
        }
    }
    assert_eq!(servers.left_behind(), Vec::<std::path::PathBuf>::new());
}

/// Plays one server and returns its cell and the peak memory of the harness, in MiB. A wrapper asks the kernel for
/// it: a look at /proc would miss the peak.
fn memory(servers: &Servers, name: &str) -> (Value, u64) {
    let wrapper = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], timeout=170); \
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let output = Command::new("python3")
        .args(["-c", wrapper, DRAINSPEC])
        .args(servers.arguments(name, "idle-exit"))
        .env("TMPDIR", servers.tmp())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let kib: u64 = words.lines().last().and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{words}"));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    (servers.cell(name), kib / 1024)
}

const GIBIBYTE: &str = "blob = b'x' * (1 << 20)\nout = sys.stdout.buffer\n";

#[test]
fn a_line_of_a_gibibyte_costs_no_memory() {
    let servers = Servers::new();
    let flood = "for _ in range(1024): out.write(blob)\nout.write(b'\\n')\nout.flush()\ntime.sleep(300)";
    servers.add("flood", &format!("{GIBIBYTE}{flood}"));
    let (cell, mib) = memory(&servers, "flood");
    assert_eq!(cell["verdict"], "error", "{cell:#}");
    assert!(cell["reason"].as_str().unwrap().contains("not a `listening` event"), "{cell:#}");
    assert!(mib < 300, "{mib} MiB");
}

#[test]
fn a_flood_while_it_serves_costs_neither_memory_nor_disk_nor_the_verdict() {
    let servers = Servers::new();
    let serves = r"
import threading
def flood(stream):
    for _ in range(512): stream.write(blob[:4095] + b'\n' + blob)
    stream.flush()
for stream in (sys.stdout.buffer, sys.stderr.buffer):
    threading.Thread(target=flood, args=(stream,), daemon=True).start()
";
    // It listens first, and ends well only if its output is read all the time.
    let script = GOOD.replace("listener = listen()\n", &format!("listener = listen()\n{GIBIBYTE}{serves}"));
    let script = script.replace("sys.exit(0)", "os._exit(0)");
    servers.add("flood", &script);
    let (cell, mib) = memory(&servers, "flood");
    assert_eq!(cell["verdict"], "pass", "{cell:#}");
    assert!(mib < 300, "{mib} MiB");
    let timeline = servers.out().join(cell["timelines"][0].as_str().unwrap());
    let size = std::fs::metadata(timeline).unwrap().len() >> 20;
    assert!(size < 64, "a timeline of {size} MiB");
}

#[test]
fn an_answer_of_a_gibibyte_costs_no_memory() {
    let servers = Servers::new();
    let script = GOOD.replace(
        "    answer(connection)\n",
        "    answer(connection, body=b'', length=1 << 30)\n    for _ in range(1024): connection.sendall(blob)\n",
    );
    servers.add("flood", &format!("{GIBIBYTE}{script}"));
    let (cell, mib) = memory(&servers, "flood");
    // Whether a gibibyte comes within the time that an answer may take depends on the machine.
    assert!(["pass", "inconclusive"].contains(&cell["verdict"].as_str().unwrap()), "{cell:#}");
    assert!(mib < 300, "{mib} MiB");
}
