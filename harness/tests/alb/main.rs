//! The proxy around the model of an ALB target group, against servers of a few lines. Nothing is asserted about
//! milliseconds: what has to come is waited for, for as long as a busy machine may need.

mod actors;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use drainspec::model::target_group::{NodeId, Observer, Settings, State, TargetId, TargetType};
use drainspec::topology::alb::{Alb, Refused, Seen};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use actors::{Act, Client, Target, status};

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const LAGS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(300)];
const NODES: [Observer; 2] = [Observer::Node(NodeId(0)), Observer::Node(NodeId(1))];
const A: TargetId = TargetId(1);
const B: TargetId = TargetId(2);

/// Checks come quickly, and no check fails because the machine is busy.
fn settings() -> Settings {
    Settings {
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(20),
        path: "/ready".to_owned(),
        ..Settings::default()
    }
}

async fn alb(settings: Settings) -> Alb {
    Alb::start(settings, &LAGS, |_| {}).await.unwrap()
}

/// A balancer in front of one target that is healthy.
async fn alb_before(settings: Settings, act: Act) -> (Alb, Target) {
    let (alb, target) = (alb(settings).await, Target::start("200 OK", act).await);
    alb.register(A, target.address).unwrap();
    assert!(alb.healthy(A, LONG).await);
    (alb, target)
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides_and_fields_are_passed_on() {
    let (alb, target) = alb_before(settings(), Act::Answer).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    for _ in 0..5 {
        let (status, head) = client.ask().await;
        assert_eq!(status, 200);
        assert!(head.contains("x-own: kept") && !head.contains("keep-alive"), "{head}");
        tokio::time::sleep(Duration::from_millis(20)).await; // so that the connection is back in the pool
    }
    assert_eq!(target.requests(), 5);
    assert!(target.connections() < 5, "none of the connections was used again");
    let head = target.heads.lock().unwrap()[0].to_lowercase();
    for field in ["host: shop", "x-request-id: 7", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"] {
        assert!(head.contains(field), "{field} lacks in {head}");
    }
    assert!(!head.contains("x-mine") && !head.contains("connection:"), "{head}");
}

#[tokio::test]
async fn requests_go_to_both_targets_in_turn() {
    let alb = alb(settings()).await;
    let targets = [Target::start("200 OK", Act::Answer).await, Target::start("200 OK", Act::Answer).await];
    for (id, target) in [A, B].into_iter().zip(&targets) {
        alb.register(id, target.address).unwrap();
        assert!(alb.healthy(id, LONG).await);
    }
    for address in alb.addresses() {
        let mut client = Client::to(address).await;
        for _ in 0..4 {
            assert_eq!(client.ask().await.0, 200);
        }
    }
    assert_eq!((targets[0].requests(), targets[1].requests()), (4, 4));
}

#[tokio::test]
async fn no_target_is_503_and_a_refused_connection_502() {
    let alb = alb(settings()).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    let (status, head) = client.ask().await;
    assert_eq!(status, 503);
    assert!(head.contains("server: awselb/2.0"), "{head}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    alb.register(A, closed).unwrap();
    until("the node has heard", || alb.state(NODES[0], A) != State::Unused).await;
    assert_eq!(client.ask().await.0, 502, "nobody is healthy, so that it is asked all the same");
}

#[tokio::test]
async fn what_was_written_is_not_written_again() {
    let (alb, target) = alb_before(settings(), Act::End).await;
    assert_eq!(Client::to(alb.addresses()[0]).await.ask().await.0, 502);
    assert_eq!(target.requests(), 1);
}

#[tokio::test]
async fn what_was_written_on_a_connection_of_the_pool_is_not_written_again_either() {
    let (alb, target) = alb_before(settings(), Act::AnswerOnce).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    let mut asked = 0;
    let ask_until_502 = async {
        loop {
            asked += 1;
            match client.ask().await.0 {
                200 => tokio::time::sleep(Duration::from_millis(20)).await, // the connection comes back to the pool
                other => return other,
            }
        }
    };
    assert_eq!(tokio::time::timeout(LONG, ask_until_502).await, Ok(502));
    assert_eq!(target.requests(), asked);
}

#[tokio::test]
async fn a_connection_that_is_known_to_be_closed_is_not_used() {
    let (alb, target) = alb_before(settings(), Act::AnswerAndEnd).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    for _ in 0..5 {
        assert_eq!(client.ask().await.0, 200);
        tokio::time::sleep(Duration::from_millis(50)).await; // the FIN comes
    }
    assert_eq!(target.requests(), 5);
}

#[tokio::test]
async fn half_an_answer_ends_the_connection_of_the_client() {
    let (alb, _target) = alb_before(settings(), Act::Half).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert_eq!(status(&client.head().await), 200);
    assert_eq!(client.rest().await, "half");
}

#[tokio::test]
async fn pieces_pass_before_the_end() {
    let told = Arc::new(Notify::new());
    let (alb, _target) = alb_before(settings(), Act::PieceAt(told.clone())).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    client.read_to("first\r\n").await;
    told.notify_one();
    client.read_to("second\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn uploads_pass_piece_by_piece() {
    let (alb, _target) = alb_before(settings(), Act::Echo).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    client.send("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    client.read_to("one\r\n").await;
    client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    client.read_to("two\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn after_a_deregistration_what_is_in_flight_completes_and_nothing_new_comes() {
    let told = Arc::new(Notify::new());
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let hear = seen.clone();
    let alb = Alb::start(settings(), &LAGS, move |seen| hear.lock().unwrap().push(seen)).await.unwrap();
    let target = Target::start("200 OK", Act::AnswerAt(told.clone())).await;
    alb.register(A, target.address).unwrap();
    assert!(alb.healthy(A, LONG).await);
    let mut client = Client::to(alb.addresses()[0]).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").await;
    until("the request has reached the target", || target.requests() == 1).await;

    alb.deregister(A);
    assert_eq!(alb.state(Observer::Api, A), State::Draining);
    until("both nodes have heard", || NODES.iter().all(|node| alb.state(*node, A) == State::Draining)).await;
    for address in alb.addresses() {
        assert_eq!(Client::to(address).await.ask().await.0, 503);
    }
    assert!(!alb.drained(A, Duration::from_millis(200)).await, "a request is in flight");
    told.notify_one();
    assert!(client.rest().await.ends_with("ok"));
    assert_eq!(target.requests(), 1);

    let order: Vec<_> =
        seen.lock().unwrap().iter().filter(|seen| seen.observer == NODES[1]).map(|seen| seen.state).collect();
    assert_eq!(order, [State::Initial, State::Healthy, State::Draining]);
}

#[tokio::test]
async fn a_node_that_has_not_heard_yet_still_sends() {
    let target = Target::start("200 OK", Act::Answer).await;
    let lags = [Duration::ZERO, Duration::from_secs(2)];
    let alb = Alb::start(settings(), &lags, |_| {}).await.unwrap();
    alb.register(A, target.address).unwrap();
    assert!(alb.healthy(A, LONG).await);
    let mut late = Client::to(alb.addresses()[1]).await;
    assert_eq!(late.ask().await.0, 200);
    alb.deregister(A);
    assert_eq!(Client::to(alb.addresses()[0]).await.ask().await.0, 503);
    if alb.state(NODES[1], A) == State::Healthy {
        let answer = late.ask().await.0;
        // On a machine so busy that it has heard meanwhile nothing is told.
        assert!(answer == 200 || alb.state(NODES[1], A) == State::Draining, "{answer}");
    }
}

#[tokio::test]
async fn idle_connections_end_and_the_target_is_drained() {
    let (alb, _target) = alb_before(Settings { idle_timeout: Duration::from_secs(2), ..settings() }, Act::Answer).await;
    assert_eq!(Client::to(alb.addresses()[0]).await.ask().await.0, 200);
    alb.deregister(A);
    assert!(alb.drained(A, LONG).await);
    assert_eq!(alb.state(Observer::Api, A), State::Draining, "the API shows it for the whole delay");
}

#[tokio::test]
async fn what_is_in_flight_is_cut_when_the_delay_is_over() {
    let settings = Settings { deregistration_delay: Duration::from_secs(1), ..settings() };
    let told = Arc::new(Notify::new());
    let (alb, target) = alb_before(settings.clone(), Act::AnswerAt(told)).await;
    let mut client = Client::to(alb.addresses()[1]).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    until("the request has reached the target", || target.requests() == 1).await;
    alb.deregister(A);
    assert_eq!(status(&client.head().await), 502);
    assert!(alb.drained(A, LONG).await);
    assert_eq!(alb.state(Observer::Api, A), State::Unused);

    let (alb, _target) = alb_before(settings, Act::PieceAt(Arc::new(Notify::new()))).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    client.read_to("first\r\n").await;
    alb.deregister(A);
    assert_eq!(client.rest().await, "", "an answer that has begun ends without its end");
}

#[tokio::test]
async fn a_silent_target_is_504() {
    let settings = Settings { idle_timeout: Duration::from_secs(2), ..settings() };
    let (alb, _target) = alb_before(settings, Act::AnswerAt(Arc::new(Notify::new()))).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    assert_eq!(client.ask().await.0, 504);
    assert_eq!(client.rest().await, "", "a client that is silent is closed too");
}

#[tokio::test]
async fn unhealthy_targets_are_asked_where_nobody_is_healthy() {
    let (alb, target) = (alb(settings()).await, Target::start("503 Busy", Act::Answer).await);
    alb.register(A, target.address).unwrap();
    until("it is unhealthy", || alb.state(Observer::Api, A) == State::Unhealthy).await;
    assert!(!alb.healthy(A, Duration::ZERO).await);
    assert_eq!(Client::to(alb.addresses()[0]).await.ask().await.0, 200);
    assert_eq!(target.requests(), 1);
}

#[tokio::test]
async fn an_address_is_registered_again_only_when_it_is_unused() {
    let settings = Settings { target_type: TargetType::Ip, deregistration_delay: Duration::from_secs(3), ..settings() };
    let (alb, target) = alb_before(settings, Act::Answer).await;
    alb.deregister(A);
    assert_eq!(alb.register(A, target.address), Err(Refused { target: A }));
    until("it is unused", || alb.state(Observer::Api, A) == State::Unused).await;
    alb.register(A, target.address).unwrap();
    assert!(alb.healthy(A, LONG).await);
}

#[tokio::test]
async fn an_old_connection_of_a_client_gets_one_last_answer() {
    let (alb, _target) =
        alb_before(Settings { client_keep_alive: Duration::from_millis(1), ..settings() }, Act::Answer).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (status, head) = client.ask().await;
    assert!(status == 200 && head.contains("connection: close"), "{head}");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_client_that_goes_takes_its_connection_to_the_target_along() {
    let (alb, target) = alb_before(settings(), Act::AnswerAt(Arc::new(Notify::new()))).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    until("the request has reached the target", || target.requests() == 1).await;
    drop(client);
    alb.deregister(A);
    assert!(alb.drained(A, LONG).await);
    assert_eq!(alb.state(Observer::Api, A), State::Draining);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let alb = alb(settings()).await;
    let mut client = Client::to(alb.addresses()[0]).await;
    let field = format!("X-Long: {}\r\n", "x".repeat(1000));
    let _ = client.0.write_all(format!("GET / HTTP/1.1\r\n{}", field.repeat(99)).as_bytes()).await;
    assert_eq!(status(&client.rest().await), 431);
}

#[tokio::test]
async fn dropping_it_frees_the_ports_and_ends_the_connections() {
    let (alb, _target) = alb_before(settings(), Act::Answer).await;
    let addresses = alb.addresses();
    let mut client = Client::to(addresses[0]).await;
    assert_eq!(client.ask().await.0, 200);
    drop(alb);
    assert_eq!(client.rest().await, "");
    for address in addresses {
        let wait = async {
            while TcpListener::bind(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("the port is free again");
    }
}

#[tokio::test]
async fn a_balancer_without_nodes_is_an_error() {
    let error = Alb::start(settings(), &[], |_| {}).await.err().expect("nobody could ask it");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
