//! The link with delay: how long it takes, and that it is a link. Where none can be made there is nothing to test,
//! and the test says so.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use drainspec::link::{Link, Place};

const ROUND_TRIP: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

fn link() -> Option<Link> {
    let made = Link::new(ROUND_TRIP);
    made.inspect_err(|why| eprintln!("skipped: no link with delay can be made here: {why}")).ok()
}

fn socket(place: &Place, address: IpAddr) -> UdpSocket {
    let socket = place.within(|| UdpSocket::bind((address, 0))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// One socket at each end, and the address of the server's.
fn ends(link: &Link) -> (UdpSocket, UdpSocket, SocketAddr) {
    let server = socket(&link.server, link.server_address);
    let address = server.local_addr().unwrap();
    (socket(&link.client, "0.0.0.0".parse().unwrap()), server, address)
}

#[test]
fn a_round_trip_takes_as_long_as_it_should() {
    let Some(link) = link() else { return };
    let (client, server, address) = ends(&link);
    let mut buffer = [0; 16];
    for _ in 0..5 {
        let began = Instant::now();
        client.send_to(b"there", address).unwrap();
        let (_, back) = server.recv_from(&mut buffer).unwrap();
        assert!(began.elapsed() >= ROUND_TRIP / 2, "one way took {:?}", began.elapsed());
        server.send_to(b"back", back).unwrap();
        client.recv(&mut buffer).unwrap();
        let took = began.elapsed();
        assert!(took >= ROUND_TRIP, "there and back took {took:?}");
        assert!(took <= ROUND_TRIP + link.latest() + Duration::from_millis(500), "there and back took {took:?}");
    }
}

#[test]
fn packets_keep_their_order() {
    let Some(link) = link() else { return };
    let (client, server, address) = ends(&link);
    for number in 0..500_u16 {
        client.send_to(&number.to_be_bytes(), address).unwrap();
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let mut buffer = [0; 2];
    for number in 0..500_u16 {
        server.recv(&mut buffer).unwrap();
        assert_eq!(u16::from_be_bytes(buffer), number);
    }
}

#[test]
fn nobody_else_is_on_it_and_it_ends() {
    let (Some(first), Some(second)) = (link(), link()) else { return };
    let (client, server, address) = ends(&first);
    let (_, other, _) = ends(&second);
    client.send_to(b"hello", address).unwrap();
    server.recv(&mut [0; 8]).unwrap();
    other.set_read_timeout(Some(2 * ROUND_TRIP)).unwrap();
    other.recv(&mut [0; 8]).unwrap_err();

    let numbers = [&first.client, &first.server, &second.client, &second.server, &Place::HERE].map(Place::number);
    assert_eq!(numbers.iter().collect::<std::collections::BTreeSet<_>>().len(), numbers.len(), "{numbers:?}");
    let place = first.client.clone();
    assert!(devices(&place).contains(&"link".to_owned()));
    drop(first);
    client.send_to(b"hello", address).expect_err("the device is gone");
    assert!(!devices(&place).contains(&"link".to_owned()));
}

/// The network devices of a place.
fn devices(place: &Place) -> Vec<String> {
    let text = place.within(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let names = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.collect()
}

#[test]
fn a_server_can_listen_on_loopback_there() {
    let Some(link) = link() else { return };
    link.server.within(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
}

#[test]
fn whoever_visits_a_place_comes_back() {
    let Some(link) = link() else { return };
    let own = || std::fs::read_link("/proc/thread-self/ns/net");
    let before = own().unwrap();
    assert_ne!(link.server.within(own).unwrap(), before);
    assert_eq!(own().unwrap(), before);
    assert_eq!(Place::HERE.within(own).unwrap(), before);
}
