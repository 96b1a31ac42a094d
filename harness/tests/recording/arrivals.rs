//! The client against servers of a few lines: whatever it is asked to send is sent, or is said not to have been.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use drainspec::client::{Ask, Client, Outcome, arrive, back_to_back, connect_storm};
use drainspec::recorder::Recorder;
use drainspec::timeline::{Event, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use crate::record::{BOUND, Tape, header};

fn client() -> Client {
    Client::new(Recorder::discard(header()))
}

/// Answers so many requests on each connection, the body apart from the head, and closes it then.
async fn server(answers: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                for _ in 0..answers {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await?;
                    stream.write_all(b"ok").await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_request_is_sent_however_soon_it_follows() {
    let (client, address) = (client(), server(usize::MAX).await);
    for round in 0..500 {
        let mut connection = client.connect(address, Role::Warmup).await.unwrap();
        assert_eq!(connection.ask(Ask::get("/", Role::Warmup)).await.outcome, Outcome::Answered);
        let pending = connection.begin(Ask::get("/", Role::InFlight));
        let pending = tokio::time::timeout(BOUND, pending).await.unwrap_or_else(|_| panic!("round {round}"));
        assert_eq!(pending.finish().await.outcome, Outcome::Answered, "round {round}");
    }
}

#[tokio::test]
async fn a_request_on_a_connection_that_has_ended_is_unsent_at_once() {
    let (client, address) = (client(), server(1).await);
    let mut connection = client.connect(address, Role::Warmup).await.unwrap();
    assert_eq!(connection.ask(Ask::get("/", Role::Warmup)).await.outcome, Outcome::Answered);
    connection.ended(BOUND).await.expect("the server closes it");
    let pending = tokio::time::timeout(BOUND, connection.begin(Ask::get("/", Role::InFlight))).await.expect("no hang");
    assert_eq!(pending.finish().await.outcome, Outcome::Unsent);
}

#[tokio::test]
async fn clients_arrive_at_their_own_pace_until_they_are_stopped() {
    const PACE: Duration = Duration::from_millis(100);
    let (client, address) = (client(), server(1).await);
    let began = Instant::now();
    let mut arrivals = arrive(&client, address, &Ask::get("/", Role::Storm), 20, PACE);
    while arrivals.begun() < 20 {
        assert!(began.elapsed() < BOUND, "only {} have come", arrivals.begun());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() >= PACE * 19 / 20, "after {:?}", began.elapsed());
    arrivals.only(5);
    let last = arrivals.begun() + 5;
    tokio::time::timeout(BOUND, arrivals.done()).await.expect("they come to an end");
    // One may have come between the two looks.
    assert!((last - 1..=last).contains(&arrivals.begun()), "{} have come, not {last}", arrivals.begun());
    assert_eq!(arrivals.answered(), arrivals.begun(), "each has its answer");
    assert_eq!(arrivals.half_way_at(began), 0, "nobody connects before the first has come");
}

#[tokio::test]
async fn whoever_is_refused_was_not_half_way() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let client = client();
    let mut arrivals = arrive(&client, address, &Ask::get("/", Role::Storm), 3, Duration::from_millis(3));
    arrivals.only(0);
    tokio::time::timeout(BOUND, arrivals.done()).await.expect("nobody listens: they are refused");
    assert_eq!((arrivals.answered(), arrivals.half_way_at(Instant::now())), (0, 0), "who is refused is not half-way");
}

/// How many connections were opened, requests sent, and requests answered.
fn counted(events: &[Event]) -> (usize, usize, usize) {
    let count = |what: fn(&Event) -> bool| events.iter().filter(|event| what(event)).count();
    (
        count(|event| matches!(event, Event::Opened { .. })),
        count(|event| matches!(event, Event::Sent { .. })),
        count(|event| matches!(event, Event::Answered { .. })),
    )
}

#[tokio::test]
async fn a_load_accounts_for_each_request() {
    for one_each in [false, true] {
        let (tape, address, ask) = (Tape::new(), server(usize::MAX).await, Ask::get("/", Role::Storm));
        let load = match one_each {
            true => connect_storm(&tape.client, address, &ask, 3, Duration::ZERO),
            false => back_to_back(&tape.client, address, &ask, 3, Duration::ZERO),
        };
        load.warm(20).await.expect("it is answered");
        load.stop().await;
        let (opened, sent, answered) = counted(&tape.events());
        assert_eq!(answered, sent, "whoever has asked stays for the answer");
        assert!(answered >= 20, "{answered} answers");
        assert_eq!(opened, if one_each { sent } else { 3 }, "connections of {sent} requests");
    }
}

#[tokio::test]
async fn a_load_counts_what_is_answered_and_nothing_else() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} }); // closes at once
    let tape = Tape::new();
    let load = back_to_back(&tape.client, address, &Ask::get("/", Role::KeepAlive), 1, Duration::ZERO);
    tape.until("a third connection", |event| matches!(event, Event::Opened { connection: 3, .. })).await;
    assert_eq!(load.answered(), 0);
    load.stop().await;
}
