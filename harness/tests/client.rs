//! The client against servers of a few lines: whatever it is asked to send is sent, or is said not to have been.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use drainspec::client::{Ask, Client, Outcome, arrive};
use drainspec::recorder::Recorder;
use drainspec::timeline::{FORMAT, Header, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

const BOUND: Duration = Duration::from_secs(30);

fn client() -> Client {
    Client::new(Recorder::discard(Header {
        format: FORMAT,
        scenario: "client".to_owned(),
        rules: Vec::new(),
        server: "test".to_owned(),
        topology: "direct".to_owned(),
        repeat: 1,
        promises_contract: false,
        features: Vec::new(),
        params: Default::default(),
        environment: Default::default(),
        learned: Vec::new(),
    }))
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
