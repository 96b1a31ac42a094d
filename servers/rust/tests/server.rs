//! The real server as a child process: configuration errors, limits, reload, exit statuses.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    listening: Value,
}

impl Server {
    fn start(variables: &[(&str, &str)]) -> Self {
        let mut child = command(variables).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let listening = event(&mut stdout).expect("the listening line");
        assert_eq!(listening["event"], "listening");
        Self { child, stdout, listening }
    }

    fn connect(&self) -> Client {
        self.connect_to("port")
    }

    fn connect_to(&self, port: &str) -> Client {
        let port = self.listening[port].as_u64().unwrap() as u16;
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(BufReader::new(stream))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Reads on to an event.
    fn expect(&mut self, name: &str) -> Value {
        loop {
            let event = event(&mut self.stdout).unwrap_or_else(|| panic!("no event {name}"));
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Waits for the end, and returns the exit status.
    fn wait(&mut self) -> i32 {
        let status = self.expect("exit")["status"].as_i64().unwrap() as i32;
        assert_eq!(self.child.wait().unwrap().code(), Some(status));
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drainspec-rust"));
    command.env_clear().envs([("PORT", "0"), ("ADMIN_PORT", "0")]).envs(variables.iter().copied());
    command
}

fn event(stdout: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
}

struct Client(BufReader<TcpStream>);

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Client {
    fn send(&mut self, text: &str) {
        let _ = self.0.get_mut().write_all(text.as_bytes()); // the answer may come before the end
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let mut line = || {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let status = line().split(' ').nth(1).expect("a status line").parse().unwrap();
        let mut headers = HashMap::new();
        while let Some((name, value)) = line().split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Answer { status, headers, body: String::from_utf8(body).unwrap() }
    }

    /// Whether the server has sent FIN, and nothing else before it.
    fn is_at_end(&mut self) -> bool {
        self.0.read_to_end(&mut Vec::new()).unwrap() == 0
    }
}

fn assert_refused(variable: &str, value: &str) {
    let Output { status, stdout, stderr } = command(&[(variable, value)]).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{variable}={value}: {stderr}");
    assert!(stdout.is_empty(), "{variable}={value} was opened");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(variable) && stderr.contains(value), "{stderr}");
}

#[test]
fn a_bad_value_is_one_line_and_status_2() {
    for (variable, value) in [
        ("HOST", "localhost"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("DRAIN_TIMEOUT", "1e3"),
        ("DRAIN_TIMEOUT", ".5"),
        ("DRAIN_TIMEOUT", "86400.1"),
        ("IDLE_LINGER", "30.5"),
        ("DRAIN_POLICY", "drop"),
        ("MAX_IN_FLIGHT", "0"),
        ("MAX_BODY_BYTES", "+1"),
        ("HEADER_TIMEOUT", "0"),
        ("CONFIG_FILE", "/nowhere"),
    ] {
        assert_refused(variable, value);
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let mut server = Server::start(&[("DRAIN_TIMEOUT", ""), ("DRAIN_POLICY", ""), ("CONFIG_FILE", "")]);
    server.signal("TERM");
    assert_eq!(server.wait(), 0);
}

#[test]
fn errors_say_what_is_wrong() {
    let server = Server::start(&[("MAX_BODY_BYTES", "4"), ("BODY_TIMEOUT", "0.2")]);
    let mut client = server.connect();
    for (path, status) in [
        ("/nowhere", 404),
        ("/echo", 405),
        ("/slow?delay=-1", 422),
        ("/slow?delay=300.5", 422),
        ("/bytes?size=1e3", 422),
        ("/stream?chunks=0", 422),
    ] {
        let answer = client.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.headers["x-instance-id"], server.listening["instance"], "{path}");
        let reason: Value = serde_json::from_str(&answer.body).unwrap();
        assert!(reason["error"].is_string(), "{path}");
        assert_eq!(answer.headers.get("allow").map(String::as_str), (status == 405).then_some("POST"));
    }

    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (413, "close"));
    assert!(client.is_at_end());

    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabc");
    assert_eq!(client.answer().status, 408);
    assert!(client.is_at_end());

    let mut client = server.connect();
    client.send(&format!("GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(17 << 10)));
    assert_eq!(client.answer().status, 431);
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    client.send("hi");
    assert_eq!(client.answer().body, "hi");
}

#[test]
fn requests_above_the_limit_are_shed_and_connections_refused() {
    let server = Server::start(&[("MAX_IN_FLIGHT", "1"), ("MAX_CONNECTIONS", "2")]);
    let (mut slow, mut other) = (server.connect(), server.connect());
    slow.send("GET /slow?delay=60 HTTP/1.1\r\nHost: x\r\n\r\n");
    await_metric(&server, "http_requests_in_flight 1\n");
    let shed = other.get("/");
    assert_eq!((shed.status, shed.headers["retry-after"].as_str()), (429, "1"));
    assert_eq!(other.get("/health/live").status, 200);
    let mut third = server.connect();
    let refused = third.answer();
    assert_eq!((refused.status, refused.headers["connection"].as_str()), (503, "close"));
    assert!(third.is_at_end());
    drop(slow); // a client that leaves holds nothing
    await_metric(&server, "http_requests_in_flight 0\n");
}

/// hyper rejects the head at first, and reads it again.
#[test]
fn a_head_of_many_fields_is_answered_wherever_it_comes() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let request = |fields: usize, body| {
        format!("POST /echo HTTP/1.1\r\nHost: x\r\n{}Content-Length: 1\r\n\r\n{body}", "a:\r\n".repeat(fields))
    };
    client.send(&[request(0, "1"), request(2000, "2"), request(2000, "3"), request(0, "4")].concat());
    for body in ["1", "2", "3", "4"] {
        assert_eq!(client.answer().body, body);
    }
    client.send(&request(0, "5"));
    assert_eq!(client.answer().body, "5");
    client.send(&request(5000, "6"));
    assert_eq!(client.answer().status, 431);
    assert!(client.is_at_end());

    // Other heads that hyper rejects it has forgotten by then.
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello");
    assert_eq!(client.answer().status, 400);
    assert!(client.is_at_end());
}

/// Pipelined requests: hyper has the second one in its buffer when it finishes the first.
#[test]
fn a_request_that_was_read_ahead_is_in_flight() {
    let mut server = Server::start(&[("IDLE_LINGER", "0")]);
    let mut client = server.connect();
    let request = |path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(&[request("/"), request("/slow?delay=1")].concat());
    assert!(!client.answer().headers.contains_key("connection"));
    let metrics = metrics(&server);
    assert!(metrics.contains("http_connections{state=\"active\"} 1\n"), "{metrics}");
    server.signal("TERM");
    server.expect("listener_closed");
    let answer = client.answer();
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (200, "close"));
    assert!(client.is_at_end());
    drop(client);
    assert_eq!(server.wait(), 0);
}

fn metrics(server: &Server) -> String {
    server.connect_to("admin_port").get("/metrics").body
}

fn await_metric(server: &Server, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !metrics(server).contains(line) {
        assert!(Instant::now() < deadline, "{line:?} not within 20 seconds");
    }
}

#[test]
fn a_reload_takes_effect_and_a_bad_file_does_not() {
    let path = std::env::temp_dir().join(format!("drainspec-rust-{}.conf", std::process::id()));
    fs::write(&path, "# nothing yet\n").unwrap();
    let mut server = Server::start(&[("CONFIG_FILE", path.to_str().unwrap()), ("DRAIN_TIMEOUT", "60")]);
    server.signal("HUP");
    assert_eq!(server.expect("reloaded")["changed"], serde_json::json!([]));
    fs::write(&path, "DRAIN_TIMEOUT = 0\nIDLE_LINGER=0\nPORT=1\n").unwrap();
    server.signal("HUP");
    assert_eq!(server.expect("reloaded")["changed"], serde_json::json!(["DRAIN_TIMEOUT", "IDLE_LINGER"]));
    fs::write(&path, "DRAIN_TIMEOUT=soon\n").unwrap();
    server.signal("HUP");
    assert!(server.expect("reload_failed")["reason"].as_str().unwrap().contains("soon"));
    fs::remove_file(&path).unwrap();
    let mut client = server.connect();
    client.send("GET /slow?delay=60 HTTP/1.1\r\nHost: x\r\n\r\n");
    await_metric(&server, "http_requests_in_flight 1\n");
    server.signal("TERM");
    assert_eq!(server.expect("cut")["requests"], 1); // DRAIN_TIMEOUT is 0 now
    assert_eq!(server.wait(), 1);
    let end = client.0.read_to_end(&mut Vec::new());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "a cut is visible");
}

#[test]
fn a_clean_stop_is_status_0() {
    let mut server = Server::start(&[("IDLE_LINGER", "0.1")]);
    let mut idle = server.connect();
    assert_eq!(idle.get("/").status, 200);
    server.signal("INT");
    assert_eq!(server.expect("signal")["signal"], "SIGINT");
    assert_eq!(server.expect("accept_queue")["minimum_ttl"], cfg!(target_os = "linux"));
    assert_eq!(server.expect("listener_closed")["ok"], true);
    assert!(idle.is_at_end());
    drop(idle);
    assert_eq!(server.wait(), 0);
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut server = Server::start(&[]);
    let mut client = server.connect();
    client.send("GET /slow?delay=60 HTTP/1.1\r\nHost: x\r\n\r\n");
    await_metric(&server, "http_requests_in_flight 1\n");
    server.signal("TERM");
    server.expect("listener_closed");
    server.signal("INT");
    assert_eq!(server.wait(), 130);
}

#[test]
fn prestop_fails_readiness_for_good_and_ends_nothing() {
    let mut server = Server::start(&[("SHUTDOWN_DELAY", "0.1")]);
    assert_eq!(server.connect().get("/health/ready").status, 200);
    for _ in 0..2 {
        assert_eq!(server.connect_to("admin_port").get("/prestop").status, 200);
    }
    assert_eq!(server.expect("not_ready")["reason"], "prestop");
    let answer = server.connect().get("/health/ready");
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (503, "close"));
    assert_eq!(server.connect().get("/health/live").status, 200);
    server.signal("TERM");
    assert_eq!(server.wait(), 0);
}
