//! Bytes on a socket, for what no well-behaved client does: half a head, a stalled body, pipelining.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Client;
use super::expected::Expected;
use super::http::Ask;
use super::wire::{Wire, WireLog};
use crate::timeline::{Break, Ending, Event, RequestId, Role};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest response that is held, in bytes.
const MAX_RESPONSE: usize = 4 << 20;

/// A connection for bytes.
pub struct Raw {
    /// The client's port.
    pub client_port: u16,
    wire: Wire,
    log: Arc<WireLog>,
    client: Client,
    received: Vec<u8>,
}

struct Head {
    status: u16,
    length: usize,
    body: Framing,
    close: bool,
    retry_after: bool,
    instance: Option<String>,
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    UntilEnd,
}

enum Parsed<T> {
    Whole(T),
    More,
    Malformed,
}

impl Raw {
    pub(super) fn new(wire: Wire, client: Client) -> Self {
        Self { client_port: wire.log().client_port, log: wire.log(), wire, client, received: Vec::new() }
    }

    /// A head with the usual fields. The id is sent along.
    pub fn head(&self, method: &str, path: &str, more: &str) -> (RequestId, String) {
        let id = self.client.next_request();
        let text = format!("{method} {path} HTTP/1.1\r\nHost: drainspec\r\nX-Request-Id: {id}\r\n{more}\r\n");
        (id, text)
    }

    /// Sends a request, whole.
    pub async fn begin(&mut self, ask: &Ask) -> RequestId {
        let (id, mut head, body) = self.prepare(ask);
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(&body);
        self.write(&head).await;
        id
    }

    /// Sends a request but for the last byte of its body, or, where it has none, but for the end of its head.
    pub async fn begin_half(&mut self, ask: &Ask) -> RequestId {
        let (id, mut head, body) = self.prepare(ask);
        match body.split_last() {
            None => head.extend_from_slice(b"X-Slow: "),
            Some((_, most)) => {
                head.extend_from_slice(b"\r\n");
                head.extend_from_slice(most);
            }
        }
        self.write(&head).await;
        id
    }

    fn prepare(&self, ask: &Ask) -> (RequestId, Vec<u8>, Bytes) {
        let id = self.client.next_request();
        let (head, body) = ask.bytes(&id);
        self.log.announce(ask.announced(&id));
        (id, head, body)
    }

    /// Says that the next bytes belong to this request.
    pub fn announce(&self, id: &RequestId, role: Role, path: &str, expect_bytes: Option<u64>) {
        let expected = Expected { bytes: expect_bytes, ..Expected::default() };
        self.log.announce(Ask::get(path, role).expect(expected).announced(id));
    }

    /// Says that a request has been written along with the one before it.
    pub fn sent_along(&self, id: &RequestId, role: Role, path: &str, expect_bytes: Option<u64>) {
        self.log.recorder.record(Event::Sent {
            connection: self.log.connection,
            request: id.clone(),
            role,
            method: None,
            path: path.to_owned(),
            due_us: None,
            expect_bytes,
            begun_us: None,
            expect_status: None,
            cut_hidden: false,
        });
    }

    /// Writes bytes; `false` where the connection has ended.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.wire.write_all(bytes).await.is_ok()
    }

    /// Waits for `100 Continue`; `false` where it does not come in time.
    pub async fn continued(&mut self, id: &RequestId, within: Duration) -> bool {
        tokio::time::timeout(within, self.told_to_continue(id)).await.unwrap_or(false)
    }

    async fn told_to_continue(&mut self, id: &RequestId) -> bool {
        while let Ok(head) = self.next_head().await {
            if head.status == 100 {
                self.received.drain(..head.length);
                self.log.recorder.record(Event::Continued { request: id.clone() });
                return true;
            }
            if head.status >= 200 {
                return false;
            }
            self.received.drain(..head.length);
        }
        false
    }

    /// Reads one response, records it as the answer to this request, and returns whether it was complete and
    /// whether it said `close`.
    pub async fn answer(&mut self, id: &RequestId, expected_body: Option<&[u8]>) -> (bool, bool) {
        let result = tokio::time::timeout(PATIENCE, self.receive(id, expected_body)).await;
        match result.unwrap_or(Err((Break::TimedOut, 0))) {
            Ok(close) => (true, close),
            Err((why, body_bytes)) => {
                self.log.recorder.record(Event::Broken { request: id.clone(), why, body_bytes });
                (false, false)
            }
        }
    }

    /// Drips bytes, one at a time, until the server answers or ends the connection, or `within` has passed.
    pub async fn drip(&mut self, id: &RequestId, bytes: &[u8], pause: Duration, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        let mut next = bytes.iter().cycle();
        while tokio::time::Instant::now() < deadline {
            match tokio::time::timeout(pause, self.wire.read_buf(&mut self.received)).await {
                Ok(Ok(1..)) => {
                    self.answer(id, None).await;
                    return;
                }
                Ok(Ok(0) | Err(_)) => {
                    let (why, _) = self.end();
                    self.log.recorder.record(Event::Broken { request: id.clone(), why, body_bytes: 0 });
                    return;
                }
                Err(_) => {
                    let Some(byte) = next.next() else { return };
                    self.write(&[*byte]).await;
                }
            }
        }
    }

    /// Waits for the server's FIN and then goes on sending, a byte at a time, until the kernel says that nobody
    /// receives it.
    pub async fn talk_on(&mut self, pause: Duration) {
        let mut unwanted = [0; 4 << 10];
        while matches!(self.wire.read(&mut unwanted).await, Ok(1..)) {}
        while self.write(b"x").await {
            tokio::time::sleep(pause).await;
        }
    }

    async fn receive(&mut self, id: &RequestId, expected: Option<&[u8]>) -> Result<bool, (Break, u64)> {
        let head = loop {
            let head = self.next_head().await?;
            if head.status >= 200 {
                break head;
            }
            self.received.drain(..head.length);
        };
        self.received.drain(..head.length);
        self.log.recorder.record(Event::Head {
            request: id.clone(),
            status: head.status,
            close: head.close,
            retry_after: head.retry_after,
            instance: head.instance,
        });
        let body = self.body(head.body).await?;
        let intact = expected.map(|expected| expected == body);
        self.log.recorder.record(Event::Answered { request: id.clone(), body_bytes: body.len() as u64, intact });
        Ok(head.close)
    }

    async fn next_head(&mut self) -> Result<Head, (Break, u64)> {
        loop {
            match parse_head(&self.received) {
                Parsed::Whole(head) => return Ok(head),
                Parsed::Malformed => return Err((Break::Malformed, 0)),
                Parsed::More => self.more().await?,
            }
        }
    }

    async fn body(&mut self, framing: Framing) -> Result<Vec<u8>, (Break, u64)> {
        loop {
            let parsed = match framing {
                Framing::Length(length) if self.received.len() >= length => {
                    Parsed::Whole((length, self.received[..length].to_vec()))
                }
                Framing::Length(_) | Framing::UntilEnd => Parsed::More,
                Framing::Chunked => parse_chunked(&self.received),
            };
            match parsed {
                Parsed::Whole((length, body)) => {
                    self.received.drain(..length);
                    return Ok(body);
                }
                Parsed::Malformed => return Err((Break::Malformed, self.received.len() as u64)),
                Parsed::More => match (self.more().await, framing) {
                    (Err((Break::Fin, _)), Framing::UntilEnd) => return Ok(std::mem::take(&mut self.received)),
                    (result, _) => result?,
                },
            }
        }
    }

    async fn more(&mut self) -> Result<(), (Break, u64)> {
        if self.received.len() > MAX_RESPONSE {
            return Err((Break::Malformed, self.received.len() as u64));
        }
        match self.wire.read_buf(&mut self.received).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(self.end()),
        }
    }

    fn end(&self) -> (Break, u64) {
        let why = if self.log.ending() == Some(Ending::Reset) { Break::Reset } else { Break::Fin };
        (why, self.received.len() as u64)
    }
}

fn parse_head(bytes: &[u8]) -> Parsed<Head> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::More,
        Err(_) => return Parsed::Malformed,
    };
    let field = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let status = response.code.unwrap_or(0);
    let chunked = field("transfer-encoding").is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"));
    let body = match field("content-length").map(|length| length.trim().parse()) {
        _ if status < 200 || status == 204 || status == 304 => Framing::Length(0),
        _ if chunked => Framing::Chunked,
        Some(Ok(length)) => Framing::Length(length),
        Some(Err(_)) => return Parsed::Malformed,
        None => Framing::UntilEnd,
    };
    Parsed::Whole(Head {
        status,
        length,
        body,
        close: field("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close")),
        retry_after: field("retry-after").is_some(),
        instance: field("x-instance-id").map(str::to_owned),
    })
}

/// Decodes a chunked body (RFC 9112, 7.1) without trailers: its length on the wire, and the body.
fn parse_chunked(bytes: &[u8]) -> Parsed<(usize, Vec<u8>)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let (head, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Parsed::More,
            Err(_) => return Parsed::Malformed,
        };
        let Ok(size) = usize::try_from(size) else { return Parsed::Malformed };
        let (begin, end) = (at + head, (at + head).saturating_add(size));
        let Some(after) = bytes.get(end..end.saturating_add(2)) else { return Parsed::More };
        if after != b"\r\n" {
            return Parsed::Malformed;
        }
        if size == 0 {
            return Parsed::Whole((end + 2, body));
        }
        body.extend_from_slice(&bytes[begin..end]);
        at = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_bodies() {
        let whole = |bytes: &[u8]| match parse_chunked(bytes) {
            Parsed::Whole((length, body)) => Some((length, body)),
            _ => None,
        };
        assert_eq!(whole(b"3\r\nabc\r\n0\r\n\r\nnext"), Some((13, b"abc".to_vec())));
        for cut in 0..13 {
            assert!(matches!(parse_chunked(&b"3\r\nabc\r\n0\r\n\r\n"[..cut]), Parsed::More), "cut at {cut}");
        }
        assert!(matches!(parse_chunked(b"3\r\nabcd\r\n"), Parsed::Malformed));
        assert!(matches!(parse_chunked(b"xyz\r\n"), Parsed::Malformed));
        assert!(matches!(parse_chunked(b"ffffffffffffffff\r\n"), Parsed::More | Parsed::Malformed));
    }
}
