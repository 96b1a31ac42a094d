//! The preconditions that scenarios make sure of, against servers that do not meet them; and what a run records of a
//! server from its start to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use drainspec::client::Ask;
use drainspec::process::Launch;
use drainspec::scenario::{Manner, Run, Stop, Subject};
use drainspec::timeline::{Event, Role};
use nix::sys::signal::Signal;

use crate::record::{BOUND, Tape};

/// Announces itself, greets, and hands each further connection to `serve`.
const PRELUDE: &str = r#"
import json, os, signal, socket, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
def listen(): return socket.create_server(("127.0.0.1", 0))
def answer(connection, body="", head=None):
    if head is None: head = connection.recv(65536)
    connection.sendall(("HTTP/1.1 200 OK\r\nX-Instance-Id: me\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).encode())
def announce(listener, admin=None):
    print(json.dumps({"event": "listening", "port": listener.getsockname()[1], "instance": "me",
                      "admin_port": admin and admin.getsockname()[1]}), flush=True)
    greeted = listener.accept()[0]
    answer(greeted)
listener = listen()
"#;

fn subject(script: &str) -> Subject {
    Subject {
        name: "test".to_owned(),
        launch: Launch {
            command: ["python3", "-B", "-c", &format!("{PRELUDE}{script}")].map(str::to_owned).into(),
            folder: "/".into(),
            env: BTreeMap::new(),
            ..Launch::default()
        },
        features: BTreeSet::new(),
        promises_contract: false,
        params: Vec::new(),
        learned: Vec::new(),
        manner: Manner::Contract,
    }
}

fn run<'s>(tape: &Tape, subject: &'s Subject) -> Run<'s> {
    Run::new(tape.recorder.clone(), subject, BTreeMap::new()).unwrap()
}

/// Asks one request of a server like this, and settles.
async fn settled(script: &str) -> (Result<(), Stop>, Duration, Vec<Event>) {
    let (tape, subject) = (Tape::new(), subject(script));
    let mut run = run(&tape, &subject);
    let target = run.start().await.unwrap();
    let began = Instant::now();
    let pending = target.connect(Role::InFlight).await.unwrap().begin(Ask::get("/", Role::InFlight)).await;
    let settled = run.settle(&target, &[pending.client_port], 1).await;
    let took = began.elapsed();
    run.note_read(&target).unwrap();
    target.kill().await;
    (settled, took, tape.events())
}

/// The requests that the kernel says are read.
fn read(events: &[Event]) -> Vec<String> {
    let read = events.iter().filter_map(|event| match event {
        Event::Read { requests } => Some(requests.clone()),
        _ => None,
    });
    read.flatten().collect()
}

fn unconfirmed(settled: &Result<(), Stop>, why: &str) {
    match settled {
        Err(Stop::Unconfirmed { why: found, .. }) => assert!(found.contains(why), "{found}, not {why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_is_in_flight_once_it_is_accepted_and_read() {
    let reads_late = "announce(listener); c = listener.accept()[0]; time.sleep(0.7); c.recv(65536); time.sleep(300)";
    let (settled, took, events) = settled(reads_late).await;
    assert!(settled.is_ok(), "{settled:?}");
    assert!(took >= Duration::from_millis(700), "after {took:?}, before it was read");
    assert_eq!(read(&events), ["r2"]);
}

#[tokio::test]
async fn what_is_not_accepted_is_not_in_flight() {
    let (settled, _, events) = settled("announce(listener); time.sleep(300)").await;
    unconfirmed(&settled, "not by the kernel's word");
    assert_eq!(read(&events), [""; 0]);
}

#[tokio::test]
async fn what_is_not_read_is_not_in_flight() {
    let (settled, _, events) = settled("announce(listener); c = listener.accept()[0]; time.sleep(300)").await;
    unconfirmed(&settled, "not by the kernel's word");
    assert_eq!(read(&events), [""; 0]);
}

#[tokio::test]
async fn whom_the_server_has_left_is_not_in_flight() {
    let (settled, _, _) = settled("announce(listener); listener.accept()[0].close(); time.sleep(300)").await;
    unconfirmed(&settled, "the server has ended the connection");
}

/// A server with metrics that count so many requests in flight, whatever there is.
fn counts(in_flight: u32) -> String {
    format!(
        r#"
admin = listen()
def scrape():
    while True:
        c = admin.accept()[0]
        while (head := c.recv(65536)): answer(c, "http_requests_in_flight {in_flight}\n", head)
threading.Thread(target=scrape, daemon=True).start()
announce(listener, admin); c = listener.accept()[0]; c.recv(65536); time.sleep(300)
"#
    )
}

#[tokio::test]
async fn what_its_own_metrics_do_not_count_is_not_in_flight() {
    for (in_flight, counted) in [(0, false), (1, true)] {
        let (settled, _, events) = settled(&counts(in_flight)).await;
        match counted {
            true => assert!(settled.is_ok(), "{settled:?}"),
            false => unconfirmed(&settled, "not by the server's metrics"),
        }
        assert!(events.contains(&Event::InFlight { process: 1, requests: u64::from(in_flight) }), "{events:#?}");
    }
}

#[tokio::test]
async fn a_run_is_recorded_from_start_to_end() {
    let script = "
def stop(*_):
    listener.close()
    time.sleep(0.3)
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
announce(listener); time.sleep(300)";
    let (tape, subject) = (Tape::new(), subject(script));
    let mut run = run(&tape, &subject);
    let mut target = run.start_with(&[("IDLE_LINGER", "6")]).await.unwrap();
    let port = target.address.port();
    assert!(!target.listener_closed(Duration::from_millis(30)).await);
    assert!(target.signal(Signal::SIGTERM));
    assert!(target.listener_closed(BOUND).await);
    target.exited_within(BOUND).await.expect("it ends");
    let records = tape.recorder.finish().unwrap().records;
    let at = |wanted: &dyn Fn(&Event) -> bool| {
        let found = records.iter().find(|record| wanted(&record.event));
        found.unwrap_or_else(|| panic!("it is not in {records:#?}")).t_us
    };
    let times = [
        at(&|event| match event {
            Event::Started { settings, .. } => settings["IDLE_LINGER"] == "6" && settings["PORT"] == "0",
            _ => false,
        }),
        at(&|event| {
            let instance = Some("me".to_owned());
            *event == Event::Listening { process: 1, port, admin_port: None, instance }
        }),
        at(&|event| *event == Event::Signal { process: 1, name: "SIGTERM".to_owned(), group: false }),
        at(&|event| matches!(event, Event::ListenerClosed { process: 1, .. })),
        at(&|event| *event == Event::Exited { process: 1, code: Some(7), signal: None }),
    ];
    assert!(times.is_sorted(), "in this order: {times:?}");
    let open_until = records.iter().find_map(|record| match record.event {
        Event::ListenerClosed { open_until_us, .. } => open_until_us,
        _ => None,
    });
    assert!(open_until.is_none_or(|until| until >= times[1] && until <= times[3]), "{open_until:?} in {times:?}");
}

#[tokio::test]
async fn somebody_else_on_its_port_is_no_target() {
    let script = r#"
other = listen()
print(json.dumps({"event": "listening", "port": listener.getsockname()[1], "instance": "another"}), flush=True)
answer(listener.accept()[0]); time.sleep(300)"#;
    let (tape, subject) = (Tape::new(), subject(script));
    let stop = run(&tape, &subject).start().await.err();
    assert!(matches!(stop, Some(Stop::Impostor { .. })), "{stop:?}");
    assert!(!tape.events().iter().any(|event| matches!(event, Event::Listening { .. })));
}
