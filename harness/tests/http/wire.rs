//! Raw bytes out, answers in. A client that means well would never send what is sent here, and would hide what
//! comes back: so this one knows nothing of requests, and as little as it can of responses.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// For how long nothing may come before it is taken for a hang. No verdict depends on anything shorter.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How old a connection may be and still be read from: some responses have no end.
const LIFE: Duration = Duration::from_secs(60);
const BLOCK: usize = 64 << 10;

/// A response, interim ones (1xx) included.
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The values of all fields of that name, as one list (RFC 9110, 5.3).
    pub fn field(&self, name: &str) -> Option<String> {
        let named = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let values: Vec<&str> = named.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Whether `Connection` has this option.
    pub fn says(&self, option: &str) -> bool {
        let options = self.field("Connection").unwrap_or_default();
        options.split(',').any(|said| said.trim().eq_ignore_ascii_case(option))
    }

    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// Why no answer came.
#[derive(Clone, PartialEq)]
pub enum End {
    /// FIN, between two answers.
    Closed,
    /// RST, between two answers.
    Reset,
    /// The connection ended within an answer.
    Truncated,
    /// Nothing for [`PATIENCE`].
    Silence,
    /// Answers, or an answer, for longer than [`LIFE`].
    Endless,
    /// Bytes that are no answer.
    Garbage(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "close"),
            Self::Reset => write!(f, "reset"),
            Self::Truncated => write!(f, "cut within an answer"),
            Self::Silence => write!(f, "silence for {} s", PATIENCE.as_secs()),
            Self::Endless => write!(f, "no end within {} s", LIFE.as_secs()),
            Self::Garbage(bytes) => write!(f, "no HTTP response: {bytes:?}"),
        }
    }
}

/// One connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    opened: Instant,
    /// Reads with pauses, through a small buffer.
    slow: bool,
}

impl Wire {
    pub fn connect(port: u16, slow: bool) -> std::io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        if slow {
            socket.set_recv_buffer_size(BLOCK)?; // before the handshake, which announces the window
        }
        socket.connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new(), opened: Instant::now(), slow })
    }

    /// Sends as much as is taken. A server that has had enough may refuse the rest: what it thinks is read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends what is taken at once, or soon, and says how much that was; `None` when the connection has ended.
    pub fn send_some(&mut self, bytes: &[u8]) -> Option<usize> {
        let _ = self.stream.set_write_timeout(Some(Duration::from_millis(100)));
        match self.stream.write(bytes) {
            Ok(taken) => Some(taken),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Some(0),
                _ => None,
            },
        }
    }

    /// Our FIN: nothing more is sent, everything is read.
    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Waits for the first bytes of an answer.
    pub fn begun(&mut self) -> Result<(), End> {
        self.fill()
    }

    /// The next answer; `to_head` where it answers a HEAD and so has no body.
    pub fn answer(&mut self, to_head: bool) -> Result<Answer, End> {
        let (mut answer, length) = self.head()?;
        self.buffer.drain(..length);
        if to_head || answer.is_interim() || matches!(answer.status, 204 | 304) {
            return Ok(answer);
        }
        answer.body = if answer.field("Transfer-Encoding").is_some() {
            self.chunks()?
        } else if let Some(length) = answer.field("Content-Length") {
            let length = length.parse().map_err(|_| End::Garbage(format!("Content-Length: {length}")))?;
            self.take(length)?
        } else {
            self.rest()?
        };
        Ok(answer)
    }

    fn head(&mut self) -> Result<(Answer, usize), End> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&self.buffer) {
                Ok(httparse::Status::Complete(length)) => {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    let fields = response.headers.iter().map(|field| (field.name.to_owned(), text(field.value)));
                    let status = response.code.unwrap_or_default();
                    return Ok((Answer { status, fields: fields.collect(), body: Vec::new() }, length));
                }
                Ok(httparse::Status::Partial) => {}
                Err(_) => return Err(self.garbage()),
            }
            self.fill().map_err(|end| match end {
                // RFC 9112, 6: half a head is no answer.
                End::Closed | End::Reset if !self.buffer.is_empty() => self.garbage(),
                end => end,
            })?;
        }
    }

    fn garbage(&self) -> End {
        End::Garbage(String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(60)]).into_owned())
    }

    fn chunks(&mut self) -> Result<Vec<u8>, End> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).map_err(|_| End::Garbage(line))?;
            body.extend(self.take(size)?);
            let end = self.line()?; // no server here sends trailers
            if !end.is_empty() {
                return Err(End::Garbage(end));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill().map_err(within)?;
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, End> {
        while self.buffer.len() < length {
            self.fill().map_err(within)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// A body without a length ends with the connection; by FIN, for RST says that something is missing.
    fn rest(&mut self) -> Result<Vec<u8>, End> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(End::Closed) => return Ok(std::mem::take(&mut self.buffer)),
                Err(end) => return Err(within(end)),
            }
        }
    }

    fn fill(&mut self) -> Result<(), End> {
        if self.slow {
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.opened.elapsed() > LIFE {
            return Err(End::Endless);
        }
        let mut block = [0; BLOCK];
        loop {
            match self.stream.read(&mut block) {
                Ok(0) => return Err(End::Closed),
                Ok(length) => {
                    self.buffer.extend_from_slice(&block[..length]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(End::Silence);
                }
                Err(_) => return Err(End::Reset),
            }
        }
    }
}

fn within(end: End) -> End {
    match end {
        End::Closed | End::Reset => End::Truncated,
        end => end,
    }
}
