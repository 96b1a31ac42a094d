//! Targets and clients of a few lines.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::LONG;

/// What a target does after the head of a request.
#[derive(Clone)]
pub enum Act {
    /// Answers `ok`.
    Answer,
    /// Answers `ok`, and ends the connection a little later, without having said so.
    AnswerAndEnd,
    /// Answers the first request of a connection `ok`, and ends it after the second.
    AnswerOnce,
    /// Ends the connection.
    End,
    /// Sends half an answer, and ends the connection.
    Half,
    /// Answers when it is told to.
    AnswerAt(Arc<Notify>),
    /// Sends a piece, and the next one when it is told to.
    PieceAt(Arc<Notify>),
    /// Sends what it gets in chunks back as it comes.
    Echo,
}

impl Act {
    /// Whether the connection stays open.
    async fn play(&self, stream: &mut TcpStream, first: bool) -> bool {
        let mut say = async |text: &str| stream.write_all(text.as_bytes()).await.is_ok();
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=5\r\nx-own: kept\r\n\r\nok";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        match self {
            Self::Answer => say(ok).await,
            Self::AnswerAndEnd => {
                say(ok).await;
                false
            }
            Self::AnswerOnce => first && say(ok).await,
            Self::End => false,
            Self::Half => {
                say("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
                false
            }
            Self::AnswerAt(told) => {
                told.notified().await;
                say(ok).await
            }
            Self::PieceAt(told) => {
                say(chunked).await;
                told.notified().await;
                say("6\r\nsecond\r\n0\r\n\r\n").await
            }
            Self::Echo => {
                say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() || buffer[..count].ends_with(b"0\r\n\r\n") {
                        break;
                    }
                }
                true
            }
        }
    }
}

/// A server: its health checks are answered with one status, and the rest by what it does.
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Of requests that were no health checks.
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Target {
    pub async fn start(ready: &'static str, act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Self { address, connections: Arc::default(), heads: Arc::default() };
        let (connections, heads) = (target.connections.clone(), target.heads.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (connections, heads, act) = (connections.clone(), heads.clone(), act.clone());
                tokio::spawn(async move {
                    let mut first = true;
                    while let Some(head) = head(&mut stream).await {
                        if head.starts_with("GET /ready ") {
                            let answer = format!("HTTP/1.1 {ready}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                            let _ = stream.write_all(answer.as_bytes()).await;
                            return;
                        }
                        connections.fetch_add(usize::from(first), Ordering::SeqCst);
                        heads.lock().unwrap().push(head);
                        if !act.play(&mut stream, first).await {
                            return;
                        }
                        first = false;
                    }
                });
            }
        });
        target
    }

    /// Requests that were no health checks.
    pub fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// Connections on which there were such requests.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// The next head on a stream, in lower case but for its first line.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// A connection of a client.
pub struct Client(pub TcpStream);

impl Client {
    pub async fn to(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Asks, and returns status line and fields.
    pub async fn head(&mut self) -> String {
        let head = tokio::time::timeout(LONG, head(&mut self.0)).await.expect("an answer in time");
        head.expect("the head of an answer")
    }

    /// Reads until this has come.
    pub async fn read_to(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let byte = tokio::time::timeout(LONG, self.0.read_u8()).await.expect("more in time");
            text.push(byte.unwrap_or_else(|_| panic!("ended before `{end}`")));
        }
        String::from_utf8(text).unwrap()
    }

    /// Reads to the end of the connection, however it ends.
    pub async fn rest(&mut self) -> String {
        let mut text = Vec::new();
        let _ = tokio::time::timeout(LONG, self.0.read_to_end(&mut text)).await.expect("an end in time");
        String::from_utf8(text).unwrap()
    }

    /// One request and its answer with a length; the status, and the head.
    pub async fn ask(&mut self) -> (u16, String) {
        self.send("GET /orders HTTP/1.1\r\nHost: shop\r\nX-Request-Id: 7\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n")
            .await;
        let head = self.head().await;
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).expect("a length");
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        (status(&head), head)
    }
}

pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status")
}
