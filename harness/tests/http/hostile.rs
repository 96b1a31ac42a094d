//! Clients that mean harm: what they cost stays bounded, others are served meanwhile, and nothing of them is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::server::{self, Server};
use crate::wire::{End, PATIENCE, Wire};

/// What a server may occupy, whoever its clients are. All four need about 60 MB or less when they are left alone.
const MEMORY: u64 = 150 << 20;
/// Short time-outs, so that the wait for them is short as well.
const ENV: [(&str, &str); 4] =
    [("WRITE_TIMEOUT", "1"), ("HEADER_TIMEOUT", "2"), ("MAX_IN_FLIGHT", "8"), ("MAX_CONNECTIONS", "2000")];
/// For all of a client's connections to be gone from the server's books. Generous: the machine may be busy.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// A kind of client, and what it does to a server.
type Attack = fn(&Server) -> Result<(), String>;
const ATTACKS: [(&str, Attack); 5] = [
    ("pipelining behind a slow request", pipeline_behind_slow),
    ("pipelining without reading", pipeline_unread),
    ("large responses that nobody reads", leave_unread),
    ("2,000 fields in each head", many_fields),
    ("a thousand connections of one byte", one_byte_each),
];

#[test]
fn hostile_clients_are_bounded() {
    let _alone = crate::alone();
    drainspec::process::raise_file_limit();
    let servers = server::selected();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = servers.iter().map(|server| scope.spawn(|| suffer(server))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a thread that attacks")).collect()
    });
    assert!(failures.is_empty(), "{} attacks succeeded:\n{}", failures.len(), failures.join("\n"));
}

/// One server, all attacks, one after the other.
fn suffer(server: &drainspec::catalog::Server) -> Vec<String> {
    let mut running = Server::start(server, &ENV);
    let mut failures = Vec::new();
    for (name, attack) in ATTACKS {
        let (done, most, others) = (AtomicBool::new(false), Watch::new(), Watch::new());
        let began = Instant::now();
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| watch(&running, &done, &most, &others));
            let outcome = attack(&running).and_then(|()| {
                let gone = ["unused", "active", "idle"].map(|state| format!("http_connections{{state=\"{state}\"}} 0"));
                let mut lines = gone.to_vec();
                lines.push("http_requests_in_flight 0".to_owned());
                running.await_metrics(&lines, CLEAN_UP)
            });
            done.store(true, Ordering::Relaxed);
            outcome
        });
        let memory = most.value();
        println!("{}: {name}: {:.1} s, at most {} MB", server.name, began.elapsed().as_secs_f32(), memory >> 20);
        let mut faults: Vec<String> = outcome.err().into_iter().collect();
        if memory > MEMORY {
            faults.push(format!("it grew to {} MB, more than {} MB", memory >> 20, MEMORY >> 20));
        }
        if others.value() > 0 {
            faults.push(format!("{} probes of others were not answered", others.value()));
        }
        failures.extend(faults.into_iter().map(|fault| format!("{}: {name}: {fault}", server.name)));
        if let Some(status) = running.ended() {
            failures.push(format!("{}: {name}: the process ended: {status}", server.name));
            break;
        }
    }
    failures
}

/// The highest of some numbers, or how many there were.
struct Watch(std::sync::atomic::AtomicU64);

impl Watch {
    fn new() -> Self {
        Self(0.into())
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Until it is over: how large is the server, and does it answer others?
fn watch(server: &Server, done: &AtomicBool, most: &Watch, others: &Watch) {
    while !done.load(Ordering::Relaxed) {
        most.0.fetch_max(server.memory(), Ordering::Relaxed);
        if server.get("/health/live") != Some(200) {
            others.0.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Requests at full speed, none of which can be answered before the first one. A server that reads them all
/// keeps them all.
fn pipeline_behind_slow(server: &Server) -> Result<(), String> {
    let seconds = std::env::var("HTTP_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut wire = connect(server)?;
    wire.send(format!("GET /slow?delay={} HTTP/1.1\r\nHost: a\r\n\r\n", seconds + 1).as_bytes());
    flood(&mut wire, Instant::now() + Duration::from_secs(seconds));
    Ok(())
}

/// The responses fill all buffers; then the client has taken nothing for WRITE_TIMEOUT and is reset.
fn pipeline_unread(server: &Server) -> Result<(), String> {
    let mut wire = connect(server)?;
    if flood(&mut wire, Instant::now() + CLEAN_UP) {
        return Err(format!("a client that reads nothing is still connected after {} s", CLEAN_UP.as_secs()));
    }
    Ok(())
}

/// Sends whole requests, one after the other, until then; false when the connection has ended.
fn flood(wire: &mut Wire, until: Instant) -> bool {
    let requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let mut sent = 0;
    while Instant::now() < until {
        match wire.send_some(&requests[sent..]) {
            Some(taken) => sent = (sent + taken) % requests.len(),
            None => return false,
        }
    }
    true
}

/// More of them than MAX_IN_FLIGHT: they shut nobody out for longer than WRITE_TIMEOUT.
fn leave_unread(server: &Server) -> Result<(), String> {
    let mut wires = Vec::new();
    for _ in 0..12 {
        let mut wire = connect(server)?;
        wire.send(b"GET /bytes?size=268435456 HTTP/1.1\r\nHost: a\r\n\r\n");
        wire.begun().map_err(|end| format!("a client that is about to read nothing: {end}"))?;
        wires.push(wire);
    }
    let began = Instant::now();
    while server.get("/") != Some(200) {
        if began.elapsed() > CLEAN_UP {
            return Err(format!("others get no answer to GET / for {} s", CLEAN_UP.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Parsing them must not be slow either: what takes time for the square of the fields shows here.
fn many_fields(server: &Server) -> Result<(), String> {
    let mut wire = connect(server)?;
    let request = [
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n".to_vec(),
        b"a: b\r\n".repeat(2000),
        b"\r\nhello".to_vec(),
    ]
    .concat();
    let began = Instant::now();
    for _ in 0..100 {
        wire.send(&request);
        let answer = wire.answer(false).map_err(|end| format!("POST /echo with 2,000 fields: {end}"))?;
        if (answer.status, answer.body.as_slice()) != (200, b"hello") {
            return Err(format!("POST /echo with 2,000 fields: {} and {} bytes", answer.status, answer.body.len()));
        }
        if began.elapsed() > CLEAN_UP {
            return Err(format!("100 such requests take more than {} s", CLEAN_UP.as_secs()));
        }
    }
    Ok(())
}

/// Each is closed after HEADER_TIMEOUT, whatever it does.
fn one_byte_each(server: &Server) -> Result<(), String> {
    let mut wires = Vec::new();
    for _ in 0..1000 {
        let mut wire = connect(server)?;
        wire.send(b"G");
        wires.push(wire);
    }
    for wire in &mut wires {
        match wire.answer(false) {
            Ok(answer) if answer.status == 408 || answer.status == 400 => {}
            Err(End::Closed) => {}
            Ok(answer) => return Err(format!("one byte got {}", answer.status)),
            Err(end) => return Err(format!("one byte, then {end}")),
        }
    }
    Ok(())
}

fn connect(server: &Server) -> Result<Wire, String> {
    let connected = Wire::connect(server.port, false);
    connected.map_err(|error| format!("no connection within {} s: {error}", PATIENCE.as_secs()))
}
