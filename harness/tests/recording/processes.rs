//! What is recorded of a process: its output, the signals that it is sent, and its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use drainspec::process::{Addressee, Exit, Launch, Spawned, StartError, start};
use drainspec::timeline::{Event, Lines, Part};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::record::{BOUND, Tape};

/// Starts a program with these arguments.
fn command(tape: &Tape, command: &[&str]) -> Spawned {
    let launch = Launch {
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        folder: PathBuf::from("/"),
        env: BTreeMap::from([("SETTING".to_owned(), "7".to_owned())]),
        ..Launch::default()
    };
    start(&launch, 1, &tape.recorder).unwrap()
}

/// Starts a script of the shell.
fn shell(tape: &Tape, script: &str) -> Spawned {
    command(tape, &["sh", "-c", script])
}

fn exited(code: Option<i32>, signal: Option<i32>) -> Event {
    Event::Exited { process: 1, code, signal }
}

fn log(line: &str) -> Event {
    Event::Log { process: 1, line: line.to_owned() }
}

/// Waits until a process says that it is ready, so that signals find it where it should be.
async fn ready(tape: &Tape) {
    tape.until("its first line", |event| *event == log("ready")).await;
}

/// Whether a process runs. One that has ended and was not waited for does not.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn it_is_started_with_what_the_timeline_says() {
    let tape = Tape::new();
    let process = shell(&tape, r#"echo "$SETTING""#);
    process.exited(BOUND).await.expect("it ends");
    let events = tape.until("its line", |event| *event == log("7")).await;
    let settings = BTreeMap::from([("SETTING".to_owned(), "7".to_owned())]);
    let started = Event::Started { process: 1, pid: process.pid() as u32, part: Part::Server, slot: None, settings };
    assert_eq!(events[0], started);
}

/// More children than processors, none of which ever waits for anything else.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn it_is_kept_waiting_for_a_processor() {
    let tape = Tape::new();
    let children = 2 * std::thread::available_parallelism().unwrap().get();
    let _process = shell(&tape, &format!("for child in $(seq {children}); do while :; do :; done & done; wait"));
    let began = Instant::now();
    let told = |event: &Event| match event {
        Event::Starved { process, waited_us, within_us } => *process == 1 && (20_000..=*within_us).contains(waited_us),
        _ => false,
    };
    while !tape.recorder.finish().unwrap().records.iter().any(|record| told(&record.event)) {
        assert!(began.elapsed() < BOUND, "nobody says that they wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn it_exits_with_its_status() {
    for status in [0, 3] {
        let tape = Tape::new();
        let process = shell(&tape, &format!("exit {status}"));
        assert_eq!(process.exited(BOUND).await, Some(Exit { code: Some(status), signal: None }));
        assert_eq!(tape.events().pop(), Some(exited(Some(status), None)));
        drop(process);
        let killed = tape.events().contains(&Event::Killed { process: 1 });
        assert!(!killed, "it has ended by itself");
    }
}

#[tokio::test]
async fn it_is_killed_by_a_signal() {
    let tape = Tape::new();
    let process = shell(&tape, "kill -9 $$");
    assert_eq!(process.exited(BOUND).await, Some(Exit { code: None, signal: Some(9) }));
    assert_eq!(tape.events().pop(), Some(exited(None, Some(9))));
}

#[tokio::test]
async fn a_signal_is_recorded_before_its_effect_and_none_to_the_dead() {
    let tape = Tape::new();
    let process = shell(&tape, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    ready(&tape).await;
    assert!(process.signal(Signal::SIGTERM, Addressee::Leader));
    assert_eq!(process.exited(BOUND).await, Some(Exit { code: Some(5), signal: None }));
    assert!(!process.signal(Signal::SIGTERM, Addressee::Leader), "nobody is there any more");
    let signalled = Event::Signal { process: 1, name: "SIGTERM".to_owned(), group: false };
    assert_eq!(tape.events()[2..], [signalled, exited(Some(5), None)]);
}

#[tokio::test]
async fn a_signal_goes_to_the_leader_alone() {
    let tape = Tape::new();
    let child = "trap 'echo child' TERM; echo ready; while :; do sleep 0.01; done";
    let process = shell(&tape, &format!("sh -c \"{child}\" & trap 'exit 0' TERM; while :; do sleep 0.01; done"));
    ready(&tape).await;
    process.signal(Signal::SIGTERM, Addressee::Leader);
    process.exited(BOUND).await.expect("the leader ends");
    assert!(process.group_alive(), "its child does not");
    assert!(!tape.events().contains(&log("child")), "nor has it heard of anything");
    process.kill().await;
}

#[tokio::test]
async fn an_end_by_the_harness_is_recorded_as_such() {
    for by_drop in [false, true] {
        let tape = Tape::new();
        let process = shell(&tape, "echo ready; exec sleep 300");
        ready(&tape).await;
        match by_drop {
            true => drop(process),
            false => process.kill().await,
        }
        let events = tape.until("its end", |event| matches!(event, Event::Exited { .. })).await;
        assert_eq!(events[2..], [Event::Killed { process: 1 }, exited(None, Some(9))], "by drop: {by_drop}");
    }
}

#[tokio::test]
async fn its_children_end_with_it() {
    let tape = Tape::new();
    let process = shell(&tape, "sleep 300 & echo $!; wait");
    let events = tape.until("the child's pid", |event| matches!(event, Event::Log { .. })).await;
    let Some(Event::Log { line, .. }) = events.last() else { panic!("{events:?}") };
    let child: i32 = line.parse().unwrap();
    assert!(runs(child));
    assert!(process.tree().pids.is_superset(&[process.pid(), child].into()), "{:?}", process.tree());
    process.kill().await;
    let began = Instant::now();
    while runs(child) {
        assert!(began.elapsed() < BOUND, "the child lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(process);
}

#[tokio::test]
async fn what_it_writes_is_told_apart() {
    let tape = Tape::new();
    let process = shell(
        &tape,
        r#"
        echo '{"event":"listening","port":7,"admin_port":8,"instance":"me"}'
        echo '{"event":"executed","request_id":"r1"}'
        echo '{"event":"executed"}'
        echo '{"event":"done","what":"executed"}'
        echo words >&2
        printf last
        "#,
    );
    process.exited(BOUND).await.expect("it ends");
    tape.until("its last words", |event| *event == log("last")).await;
    let wanted = Event::Stderr { process: 1, line: "words".to_owned() };
    let events = tape.until("its complaint", |event| *event == wanted).await;
    let of_stdout = events.into_iter().filter(|event| matches!(event, Event::Log { .. } | Event::Executed { .. }));
    assert_eq!(
        of_stdout.collect::<Vec<_>>(),
        [
            log(r#"{"event":"listening","port":7,"admin_port":8,"instance":"me"}"#),
            Event::Executed { process: 1, request: "r1".to_owned() },
            log(r#"{"event":"executed"}"#),
            log(r#"{"event":"done","what":"executed"}"#),
            log("last"),
        ]
    );
}

#[tokio::test]
async fn it_listens_where_it_says_or_says_why_not() {
    let tape = Tape::new();
    let line = r#"echo '{"event":"listening","port":7,"admin_port":8,"instance":"me"}'; exec sleep 300"#;
    let listening = shell(&tape, line).listening().await.unwrap();
    assert_eq!((listening.port, listening.admin_port, listening.instance.as_deref()), (7, Some(8), Some("me")));

    let early = shell(&tape, "echo no database >&2; exit 4").listening().await.unwrap_err();
    assert!(matches!(early, StartError::Exited { exit: Exit { code: Some(4), .. }, .. }), "{early}");
    assert!(early.to_string().contains("no database"), "{early}");

    let other = shell(&tape, "echo hello; exec sleep 300").listening().await.unwrap_err();
    assert!(matches!(other, StartError::NotListening { .. }), "{other}");
}

#[tokio::test]
async fn what_is_too_much_is_not_recorded_and_that_is() {
    let script = |lines: usize, line: &str| format!("import sys\nfor n in range({lines}): print('{line}' % n)");
    let executed = r#"{"event":"executed","request_id":"r%d"}"#;
    for (kind, most, script) in [
        (Lines::Log, 2_000, script(2_010, "line %d")),
        (
            Lines::Stderr,
            2_000,
            script(2_010, "line %d").replace("print(", "print(file=sys.stderr, *[").replace("% n)", "% n])"),
        ),
        (Lines::Executed, 200_000, script(200_010, executed)),
    ] {
        let tape = Tape::new();
        let process = command(&tape, &["python3", "-c", &script]);
        process.exited(BOUND).await.expect("it ends: its pipe was read to the end");
        let events = tape.until("the bound", |event| matches!(event, Event::Unrecorded { .. })).await;
        let of_kind = |event: &&Event| match kind {
            Lines::Log => matches!(event, Event::Log { .. }),
            Lines::Stderr => matches!(event, Event::Stderr { .. }),
            Lines::Executed => matches!(event, Event::Executed { .. }),
        };
        assert_eq!(events.iter().filter(of_kind).count(), most, "{kind:?}");
        let told: Vec<&Event> = events.iter().filter(|event| matches!(event, Event::Unrecorded { .. })).collect();
        assert_eq!(told, [&Event::Unrecorded { process: 1, lines: kind, recorded: most as u64 }], "once");
    }
}

#[tokio::test]
async fn whoever_is_muted_is_not_read() {
    let tape = Tape::new();
    let process = shell(&tape, "echo ready; exec sleep 300");
    ready(&tape).await;
    process.mute().await.expect("its pipes can be filled");
    assert_eq!(tape.events().last(), Some(&Event::Muted { process: 1 }));
    assert_eq!(process.exit(), None, "its pipes stay open");
    process.kill().await;
}

#[tokio::test]
async fn signals_have_their_default_effect_whatever_the_harness_inherited() {
    // SAFETY: nothing in this program wants SIGHUP.
    unsafe { nix::sys::signal::signal(Signal::SIGHUP, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
    let tape = Tape::new();
    let process = shell(&tape, "echo ready; exec sleep 300");
    ready(&tape).await;
    kill(Pid::from_raw(process.pid()), Signal::SIGHUP).unwrap();
    assert_eq!(process.exited(BOUND).await, Some(Exit { code: None, signal: Some(1) }));
}
