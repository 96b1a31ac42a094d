//! Servers of a few lines, in threads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use socket2::SockRef;

/// Serves each connection in a thread of its own. The connection ends by FIN where the function returns.
pub fn serve(each: impl Fn(&mut TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (each, mut stream) = (each.clone(), stream.unwrap());
            std::thread::spawn(move || each(&mut stream));
        }
    });
    address
}

/// As [`serve`], for one function that says what it saw.
pub fn serve_and_tell<T: Send + 'static>(
    each: impl Fn(&mut TcpStream) -> T + Clone + Send + 'static,
) -> (SocketAddr, Receiver<T>) {
    let (tell, told) = channel();
    let address = serve(move |stream| {
        let seen = each(stream);
        let _ = tell.send(seen);
    });
    (address, told)
}

/// Reads the head of a request.
pub fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads the head of a request and writes this.
pub fn answer(stream: &mut TcpStream, bytes: &str) {
    head(stream);
    stream.write_all(bytes.as_bytes()).unwrap();
}

/// Lets the connection end by RST where it is dropped.
pub fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until the other side has ended the connection; whether it did so by RST.
pub fn ended_by_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}
