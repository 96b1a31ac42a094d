//! What the client that speaks in bytes records.

use std::io::Read;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};

use drainspec::timeline::{Break, Ending, Event, Role};

use crate::record::{BOUND, Tape, endings};
use crate::servers::{answer, ended_by_reset, head, reset, serve};

/// Asks once and returns all that was recorded of the request, and whether it was whole and said `close`.
async fn once(server: impl Fn(&mut TcpStream) + Clone + Send + 'static) -> ((bool, bool), Vec<Event>) {
    let tape = Tape::new();
    let mut raw = tape.client.connect_raw(serve(server), Role::Pipelined).await.unwrap();
    let (id, head) = raw.head("GET", "/", "");
    raw.announce(&id, Role::Pipelined, "/", Some(4));
    assert!(raw.write(head.as_bytes()).await);
    let came = raw.answer(&id, Some(b"same")).await;
    (came, tape.events())
}

fn of_the_answer(events: Vec<Event>) -> Vec<Event> {
    let of = |event: &Event| matches!(event, Event::Head { .. } | Event::Answered { .. } | Event::Broken { .. });
    events.into_iter().filter(of).collect()
}

fn a_head(status: u16, close: bool, retry_after: bool, instance: Option<&str>) -> Event {
    Event::Head { request: "r1".to_owned(), status, close, retry_after, instance: instance.map(str::to_owned) }
}

fn answered(body_bytes: u64, intact: bool) -> Event {
    Event::Answered { request: "r1".to_owned(), body_bytes, intact: Some(intact) }
}

fn broken(why: Break, body_bytes: u64) -> Event {
    Event::Broken { request: "r1".to_owned(), why, body_bytes }
}

#[tokio::test]
async fn whole_answers_are_answered_however_their_end_is_told() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsame", false, answered(4, true)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsome", false, answered(4, false)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsame\r\n0\r\n\r\n", false, answered(4, true)),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsame", true, answered(4, true)),
        ("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsame", false, answered(4, true)),
    ];
    for (response, close, expected) in cases {
        let (came, events) = once(move |stream| answer(stream, response)).await;
        assert_eq!(came, (true, close), "{response}");
        assert_eq!(of_the_answer(events), [a_head(200, close, false, None), expected], "{response}");
    }
}

#[tokio::test]
async fn a_head_says_what_it_says() {
    let response =
        "HTTP/1.1 503 No\r\nRetry-After: 1\r\nX-Instance-Id: me\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (_, events) = once(move |stream| answer(stream, response)).await;
    assert_eq!(of_the_answer(events)[0], a_head(503, true, true, Some("me")));
}

#[tokio::test]
async fn what_is_cut_is_broken_with_what_came() {
    let head = a_head(200, false, false, None);
    for (response, expected) in [
        ("", vec![broken(Break::Fin, 0)]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", vec![head.clone(), broken(Break::Fin, 3)]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncut\r\n", vec![head, broken(Break::Fin, 8)]),
        ("SSH-2.0-OpenSSH\r\n\r\n", vec![broken(Break::Malformed, 0)]),
    ] {
        let (came, events) = once(move |stream| answer(stream, response)).await;
        assert_eq!(came, (false, false), "{response}");
        assert_eq!(of_the_answer(events), expected, "{response}");
    }
}

#[tokio::test]
async fn rst_is_told_from_fin() {
    let server = |stream: &mut TcpStream| {
        head(stream);
        reset(stream);
    };
    let (_, events) = once(server).await;
    assert_eq!(endings(&events), [Ending::Reset]);
    assert_eq!(of_the_answer(events), [broken(Break::Reset, 0)]);
}

#[tokio::test]
async fn a_request_is_sent_when_its_first_byte_is() {
    let tape = Tape::new();
    let server = serve(|stream| {
        ended_by_reset(stream);
    });
    let mut raw = tape.client.connect_raw(server, Role::SlowHead).await.unwrap();
    let (id, head) = raw.head("GET", "/", "");
    raw.announce(&id, Role::SlowHead, "/", None);
    let sent = |event: &Event| matches!(event, Event::Sent { request, .. } if *request == id);
    assert!(!tape.events().iter().any(sent), "nothing is written yet");
    assert!(raw.write(&head.as_bytes()[..1]).await);
    assert!(raw.write(&head.as_bytes()[1..2]).await);
    assert_eq!(tape.events().iter().filter(|event| sent(event)).count(), 1, "once, with the first byte");
    drop(raw);
    assert_eq!(endings(&tape.events()), [Ending::Local]);
}

#[tokio::test]
async fn a_call_to_continue_is_recorded_and_a_refusal_is_none() {
    for (interim, told) in
        [("HTTP/1.1 100 Continue\r\n\r\n", true), ("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", false)]
    {
        let tape = Tape::new();
        let server = serve(move |stream| answer(stream, interim));
        let mut raw = tape.client.connect_raw(server, Role::Continue).await.unwrap();
        let (id, head) = raw.head("POST", "/echo", "Expect: 100-continue\r\nContent-Length: 4\r\n");
        raw.announce(&id, Role::Continue, "/echo", None);
        raw.write(head.as_bytes()).await;
        assert_eq!(raw.continued(&id, BOUND).await, told, "{interim}");
        assert_eq!(tape.events().contains(&Event::Continued { request: id }), told, "{interim}");
    }
}

#[tokio::test]
async fn a_drip_goes_on_until_the_server_has_enough() {
    let (enough, wait) = mpsc::channel();
    let wait = Arc::new(Mutex::new(wait));
    for (by_reset, why, how) in [(false, Break::Fin, Ending::Fin), (true, Break::Reset, Ending::Reset)] {
        let (tape, wait) = (Tape::new(), wait.clone());
        let server = serve(move |stream| {
            wait.lock().unwrap().recv().unwrap();
            stream.read_exact(&mut [0; 5]).unwrap(); // a close with unread bytes would be a reset
            if by_reset {
                reset(stream);
            }
        });
        let mut raw = tape.client.connect_raw(server, Role::SlowHead).await.unwrap();
        let (id, head) = raw.head("GET", "/", "");
        raw.announce(&id, Role::SlowHead, "/", None);
        raw.write(&head.as_bytes()[..5]).await;
        enough.send(()).unwrap();
        // The pause is longer than the server takes: no byte of the drip is on its way when it ends.
        raw.drip(&id, b"x", BOUND, BOUND).await;
        let events = tape.events();
        assert_eq!((of_the_answer(events.clone()), endings(&events)), (vec![broken(why, 0)], vec![how]));
    }
}
