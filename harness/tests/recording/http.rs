//! What the client that speaks HTTP records.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drainspec::client::{Ask, Outcome, Payload};
use drainspec::timeline::{Break, Ending, Event, NotOpened, Role};
use tokio::net::TcpSocket;

use crate::record::{BOUND, Tape, endings};
use crate::servers::{answer, ended_by_reset, head, reset, serve, serve_and_tell};

/// The head of a response that is all right.
const OK: &str = "HTTP/1.1 200 OK\r\n";

/// Asks once, waits for the end of the connection, and returns all that was recorded.
async fn once(server: impl Fn(&mut TcpStream) + Clone + Send + 'static, ask: Ask) -> (Outcome, Vec<Event>) {
    let tape = Tape::new();
    let mut connection = tape.client.connect(serve(server), Role::InFlight).await.unwrap();
    let came = connection.ask(ask).await;
    connection.ended(BOUND).await.expect("the server ends the connection");
    (came.outcome, tape.events())
}

fn get() -> Ask {
    Ask::get("/path", Role::InFlight)
}

fn opened() -> Event {
    Event::Opened { connection: 1, role: Role::InFlight, begun_us: None }
}

fn sent() -> Event {
    Event::Sent {
        connection: 1,
        request: "r1".to_owned(),
        role: Role::InFlight,
        method: None,
        path: "/path".to_owned(),
        due_us: None,
        expect_bytes: None,
        expect_status: None,
        begun_us: None,
        cut_hidden: false,
    }
}

fn a_head() -> Event {
    Event::Head { request: "r1".to_owned(), status: 200, close: false, retry_after: false, instance: None }
}

fn answered(body_bytes: u64) -> Event {
    Event::Answered { request: "r1".to_owned(), body_bytes, intact: None }
}

fn broken(why: Break, body_bytes: u64) -> Event {
    Event::Broken { request: "r1".to_owned(), why, body_bytes }
}

fn ended(how: Ending) -> Event {
    Event::Ended { connection: 1, how }
}

/// The records of a request and of the end of its connection, whichever of the two comes first.
fn same(found: Vec<Event>, mut expected: Vec<Event>) {
    let at = |events: &[Event], event: &Event| events.iter().position(|other| other == event);
    let mut found = found;
    for events in [&mut found, &mut expected] {
        let last = events.iter().find(|event| matches!(event, Event::Ended { .. })).cloned();
        if let Some(last) = last {
            let at = at(events, &last).unwrap();
            events.remove(at);
            events.push(last);
        }
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_whole_answer_is_answered() {
    let server = |stream: &mut TcpStream| answer(stream, &format!("{OK}Content-Length: 5\r\n\r\nwhole"));
    let (outcome, events) = once(server, get()).await;
    assert_eq!(outcome, Outcome::Answered);
    same(events, vec![opened(), sent(), a_head(), answered(5), ended(Ending::Fin)]);
}

#[tokio::test]
async fn a_chunked_answer_is_answered() {
    let body = "Transfer-Encoding: chunked\r\n\r\n2\r\nwh\r\n3\r\nole\r\n0\r\n\r\n";
    let (outcome, events) = once(move |stream| answer(stream, &format!("{OK}{body}")), get()).await;
    assert_eq!(outcome, Outcome::Answered);
    same(events, vec![opened(), sent(), a_head(), answered(5), ended(Ending::Fin)]);
}

#[tokio::test]
async fn fin_before_an_answer_is_a_loss_by_fin() {
    let (outcome, events) = once(|stream| drop(head(stream)), get()).await;
    assert_eq!(outcome, Outcome::Lost(Break::Fin));
    same(events, vec![opened(), sent(), broken(Break::Fin, 0), ended(Ending::Fin)]);
}

#[tokio::test]
async fn rst_before_an_answer_is_a_loss_by_rst() {
    let server = |stream: &mut TcpStream| {
        head(stream);
        reset(stream);
    };
    let (outcome, events) = once(server, get()).await;
    assert_eq!(outcome, Outcome::Lost(Break::Reset));
    same(events, vec![opened(), sent(), broken(Break::Reset, 0), ended(Ending::Reset)]);
}

#[tokio::test]
async fn a_body_that_is_cut_by_fin_is_a_loss_with_what_came() {
    for body in ["Content-Length: 10\r\n\r\ncut", "Transfer-Encoding: chunked\r\n\r\n3\r\ncut\r\n"] {
        let (outcome, events) = once(move |stream| answer(stream, &format!("{OK}{body}")), get()).await;
        assert_eq!(outcome, Outcome::Lost(Break::Fin), "{body}");
        same(events, vec![opened(), sent(), a_head(), broken(Break::Fin, 3), ended(Ending::Fin)]);
    }
}

#[tokio::test]
async fn a_body_that_is_cut_by_rst_is_a_loss_by_rst() {
    let (cut, cuts) = channel();
    let cuts = Arc::new(Mutex::new(cuts));
    let server = serve(move |stream| {
        answer(stream, &format!("{OK}Content-Length: 10\r\n\r\ncut"));
        cuts.lock().unwrap().recv().unwrap(); // RST throws away what was not read yet
        reset(stream);
    });
    let tape = Tape::new();
    let connection = tape.client.connect(server, Role::InFlight).await.unwrap();
    let pending = connection.begin(get()).await;
    assert!(pending.answering(BOUND).await, "the head comes");
    cut.send(()).unwrap();
    assert_eq!(pending.finish().await.outcome, Outcome::Lost(Break::Reset));
    let events = tape.events();
    assert_eq!(endings(&events), [Ending::Reset]);
    assert!(events.iter().any(|event| matches!(event, Event::Broken { why: Break::Reset, .. })), "{events:#?}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_loss_by_waiting() {
    let tape = Tape::new();
    let server = serve(|stream| {
        head(stream);
        ended_by_reset(stream);
    });
    let mut connection = tape.client.connect(server, Role::InFlight).await.unwrap();
    let came = connection.ask(get().patience(Duration::from_millis(100))).await;
    assert_eq!(came.outcome, Outcome::Lost(Break::TimedOut));
    drop(connection);
    let events = tape.until("the end", |event| matches!(event, Event::Ended { .. })).await;
    same(events, vec![opened(), sent(), broken(Break::TimedOut, 0), ended(Ending::Local)]);
}

#[tokio::test]
async fn what_is_not_http_is_told_from_a_lack_of_it() {
    let (outcome, events) = once(|stream| answer(stream, "SSH-2.0-OpenSSH\r\n\r\n"), get()).await;
    assert_eq!(outcome, Outcome::Lost(Break::Malformed));
    assert!(events.contains(&broken(Break::Malformed, 0)), "{events:#?}");
}

#[tokio::test]
async fn a_head_says_what_it_says() {
    let of = async |head: &'static str| {
        let (_, events) = once(move |stream| answer(stream, head), get()).await;
        let head = events.into_iter().find(|event| matches!(event, Event::Head { .. }));
        head.expect("a head is recorded")
    };
    let says = |status, close, retry_after, instance: Option<&str>| {
        let instance = instance.map(str::to_owned);
        Event::Head { request: "r1".to_owned(), status, close, retry_after, instance }
    };
    for (head, expected) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", says(204, false, false, None)),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", says(200, true, false, None)),
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n", says(200, true, false, None)),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", says(200, true, false, None)),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", says(200, false, false, None)),
        ("HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", says(429, false, true, None)),
        ("HTTP/1.1 503 No\r\nX-Instance-Id: me\r\nContent-Length: 0\r\n\r\n", says(503, false, false, Some("me"))),
    ] {
        assert_eq!(of(head).await, expected, "{head}");
    }
}

#[tokio::test]
async fn an_echo_is_intact_or_not() {
    for (body, intact) in [("same", true), ("some", false)] {
        let server = move |stream: &mut TcpStream| answer(stream, &format!("{OK}Content-Length: 4\r\n\r\n{body}"));
        let echo = Ask::post("/echo", Role::Upload, Payload::Whole("same".into()));
        let (_, events) = once(server, echo).await;
        let expected = Event::Answered { request: "r1".to_owned(), body_bytes: 4, intact: Some(intact) };
        assert!(events.contains(&expected), "{body}: {events:#?}");
    }
}

#[tokio::test]
async fn nobody_who_listens_is_a_refusal() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap(); // keeps the port, and does not listen
    let tape = Tape::new();
    let refused = tape.client.connect(socket.local_addr().unwrap(), Role::New).await;
    assert_eq!(refused.err(), Some(NotOpened::Refused));
    assert_eq!(
        tape.events(),
        [Event::NotOpened { connection: 1, role: Role::New, why: NotOpened::Refused, begun_us: None }]
    );
}

#[tokio::test]
async fn an_idle_connection_ends_as_the_server_ends_it() {
    for (by_reset, how) in [(false, Ending::Fin), (true, Ending::Reset)] {
        let (end, ends) = channel();
        let ends = Arc::new(Mutex::new(ends));
        let server = serve(move |stream| {
            answer(stream, &format!("{OK}Content-Length: 0\r\n\r\n"));
            ends.lock().unwrap().recv().unwrap();
            if by_reset {
                reset(stream);
            }
        });
        let tape = Tape::new();
        let mut connection = tape.client.connect(server, Role::InFlight).await.unwrap();
        assert_eq!(connection.ask(get()).await.outcome, Outcome::Answered);
        assert_eq!(connection.ending(), None);
        end.send(()).unwrap();
        assert_eq!(connection.ended(BOUND).await, Some(how));
        drop(connection);
        tokio::task::yield_now().await;
        assert_eq!(endings(&tape.events()), [how], "it ends once");
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_unsent_and_not_lost() {
    let tape = Tape::new();
    let server = serve(|stream| answer(stream, &format!("{OK}Content-Length: 0\r\n\r\n")));
    let mut connection = tape.client.connect(server, Role::InFlight).await.unwrap();
    assert_eq!(connection.ask(get()).await.outcome, Outcome::Answered);
    connection.ended(BOUND).await.expect("the server ends the connection");
    assert_eq!(connection.ask(Ask::get("/", Role::Late)).await.outcome, Outcome::Unsent);
    let last = tape.events().pop();
    assert_eq!(last, Some(Event::Unsent { connection: 1, request: "r2".to_owned(), role: Role::Late }));
}

#[tokio::test]
async fn a_client_that_leaves_has_left() {
    for by_reset in [false, true] {
        let tape = Tape::new();
        let (server, seen) = serve_and_tell(|stream| {
            head(stream);
            ended_by_reset(stream)
        });
        let pending = tape.client.connect(server, Role::InFlight).await.unwrap().begin(get()).await;
        match by_reset {
            true => pending.leave_by_reset().await,
            false => pending.leave().await,
        }
        assert_eq!(seen.recv_timeout(BOUND), Ok(by_reset), "what the server sees of it");
        same(tape.events(), vec![opened(), sent(), broken(Break::Left, 0), ended(Ending::Local)]);
    }
}

#[tokio::test]
async fn a_request_bears_the_id_that_is_recorded() {
    let (server, heads) = serve_and_tell(|stream| {
        let head = head(stream);
        stream.write_all(format!("{OK}Content-Length: 0\r\n\r\n").as_bytes()).unwrap();
        head
    });
    let tape = Tape::new();
    for (number, ask) in [(1, get()), (2, get().without_id())] {
        let mut connection = tape.client.connect(server, Role::InFlight).await.unwrap();
        assert_eq!(connection.ask(ask).await.outcome, Outcome::Answered);
        let head = heads.recv_timeout(BOUND).unwrap().to_ascii_lowercase();
        assert_eq!(head.contains(&format!("x-request-id: r{number}\r\n")), number == 1, "{head}");
        assert!(head.starts_with("get /path http/1.1\r\n"), "{head}");
    }
}

#[tokio::test]
async fn what_is_due_is_on_the_timeline() {
    let server = |stream: &mut TcpStream| answer(stream, &format!("{OK}Content-Length: 0\r\n\r\n"));
    let (_, events) = once(server, get().expect_bytes(7)).await;
    let due = |event: &Event| matches!(event, Event::Sent { expect_bytes: Some(7), .. });
    assert!(events.iter().any(due), "{events:#?}");
}

#[tokio::test]
async fn a_request_is_under_way_as_long_as_it_is() {
    let tape = Tape::new();
    let (go, wait) = channel();
    let wait = Arc::new(Mutex::new(wait));
    let server = serve(move |stream| {
        head(stream);
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(format!("{OK}Content-Length: 0\r\n\r\n").as_bytes()).unwrap();
        ended_by_reset(stream);
    });
    let pending = tape.client.connect(server, Role::InFlight).await.unwrap().begin(get()).await;
    assert_eq!(tape.client.under_way(server).get(&pending.client_port).map(String::as_str), Some("r1"));
    go.send(()).unwrap();
    let (answer, _connection) = pending.finish_open().await.unwrap();
    assert_eq!(answer.outcome, Outcome::Answered);
    assert!(tape.client.under_way(server).is_empty(), "the connection is open, and nothing is asked on it");
}
