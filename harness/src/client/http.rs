//! HTTP/1.1 on one connection, by hyper, over a [`Wire`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, Version, header};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use super::expected::{Expected, Framing, digest};
use super::wire::{Announced, Wire, WireLog};
use crate::timeline::{Break, ConnectionId, Ending, Event, NotOpened, RequestId, Role};

/// Longest wait for an answer, unless the request says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a client that reads slowly says that it still does.
const PROGRESS: Duration = Duration::from_millis(500);

/// Where servers that keep the contract name themselves.
const INSTANCE: HeaderName = HeaderName::from_static("x-instance-id");

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One connection. It is never replaced by another.
pub struct Connection {
    /// Its number.
    pub id: ConnectionId,
    sender: SendRequest<Body>,
    log: Arc<WireLog>,
    client: Client,
    _task: AbortOnDropHandle<()>,
}

/// What to ask.
#[derive(Clone)]
pub struct Ask {
    method: Method,
    path: String,
    role: Role,
    payload: Payload,
    headers: HeaderMap,
    expected: Expected,
    patience: Duration,
    pace: Option<Duration>,
    carries_id: bool,
    due: Option<Instant>,
    instance_header: HeaderName,
}

/// The body of a request.
#[derive(Clone)]
pub enum Payload {
    /// None.
    None,
    /// All at once.
    Whole(Bytes),
    /// In pieces, with a pause before each.
    Dripped {
        /// The pieces.
        pieces: Vec<Bytes>,
        /// The pause.
        pause: Duration,
    },
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A complete response.
    Answered,
    /// Written, in part at least, and no complete response.
    Lost(Break),
    /// Not written at all.
    Unsent,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered => f.write_str("a complete response"),
            Self::Lost(why) => write!(f, "no complete response, but {}", why.words()),
            Self::Unsent => f.write_str("the connection ended before the request was sent"),
        }
    }
}

/// What came of a request, with what the caller may need at once. The timeline has the rest.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What came of it.
    pub outcome: Outcome,
    /// The status, where a head came.
    pub status: Option<u16>,
    /// Whether the response said `Connection: close`.
    pub close: bool,
    /// The instance that answered.
    pub instance: Option<String>,
    /// The length of the body.
    pub bytes: u64,
    /// How the end of the body is told, where a head came.
    pub framing: Option<Framing>,
    /// The header fields.
    pub headers: HeaderMap,
    /// The first part of the body: 4 MiB.
    pub body: Bytes,
}

/// A request on its way.
pub struct Pending {
    /// The client's port of its connection.
    pub client_port: u16,
    task: AbortOnDropHandle<(Answer, Connection)>,
    log: Arc<WireLog>,
    id: RequestId,
}

impl Ask {
    /// A GET.
    pub fn get(path: impl Into<String>, role: Role) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            role,
            payload: Payload::None,
            headers: HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("drainspec"))]),
            expected: Expected::default(),
            patience: PATIENCE,
            pace: None,
            carries_id: true,
            due: None,
            instance_header: INSTANCE,
        }
    }

    /// A POST.
    pub fn post(path: impl Into<String>, role: Role, payload: Payload) -> Self {
        let ask = Self::get(path, role);
        let expected = Expected { echo: ask.path == "/echo", ..ask.expected };
        Self { method: Method::POST, payload, expected, ..ask }
    }

    /// With another method.
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// With a body.
    pub fn payload(self, payload: Payload) -> Self {
        Self { payload, ..self }
    }

    /// With these header fields, which replace those of the same name.
    pub fn headers(mut self, headers: &HeaderMap) -> Self {
        for name in headers.keys() {
            self.headers.remove(name);
            for value in headers.get_all(name) {
                self.headers.append(name, value.clone());
            }
        }
        self
    }

    /// The length of the body of a whole response.
    pub fn expect_bytes(self, bytes: u64) -> Self {
        Self { expected: Expected { bytes: Some(bytes), ..self.expected }, ..self }
    }

    /// The response that is due.
    pub fn expect(self, expected: Expected) -> Self {
        Self { expected, ..self }
    }

    /// How long to wait for the answer.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Reads the response slowly: a pause after each piece on the average.
    pub fn read_slowly(self, pause: Duration) -> Self {
        Self { pace: Some(pause), ..self }
    }

    /// Without its id on the wire: the server then has nothing to log. The timeline has it all the same.
    pub fn without_id(self) -> Self {
        Self { carries_id: false, ..self }
    }

    /// Whose responses name their instance in this header field.
    pub fn instance_header(self, instance_header: HeaderName) -> Self {
        Self { instance_header, ..self }
    }

    /// Due at this time, from which its latency counts.
    pub fn due(self, due: Instant) -> Self {
        Self { due: Some(due), ..self }
    }

    /// For something else.
    pub fn with_role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What is to be said of it when its first bytes are written.
    pub(super) fn announced(&self, id: &RequestId) -> Announced {
        Announced {
            id: id.clone(),
            role: self.role,
            method: self.method.clone(),
            path: self.path.clone(),
            due: self.due.map(Instant::into_std),
            expected: self.expected,
        }
    }

    /// The head as bytes, without the empty line at its end, and the body.
    pub(super) fn bytes(&self, id: &RequestId) -> (Vec<u8>, Bytes) {
        let mut head = format!("{} {} HTTP/1.1\r\nX-Request-Id: {id}\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        if let Some(length) = self.payload.length() {
            head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
        }
        let body = match &self.payload {
            Payload::None => Bytes::new(),
            Payload::Whole(bytes) => bytes.clone(),
            Payload::Dripped { pieces, .. } => pieces.concat().into(),
        };
        (head, body)
    }

    fn request(&self, id: &RequestId) -> Result<Request<Body>, hyper::http::Error> {
        let body: Body = match &self.payload {
            Payload::None => Empty::new().boxed_unsync(),
            Payload::Whole(bytes) => Full::new(bytes.clone()).boxed_unsync(),
            Payload::Dripped { pieces, pause } => {
                let pause = *pause;
                let drip = stream::unfold(pieces.clone().into_iter(), move |mut rest| async move {
                    let piece = rest.next()?;
                    tokio::time::sleep(pause).await;
                    Some((Ok(Frame::data(piece)), rest))
                });
                StreamBody::new(drip).boxed_unsync()
            }
        };
        let mut request = Request::builder().method(&self.method).uri(&self.path);
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.headers);
        }
        if self.carries_id {
            request = request.header("x-request-id", id);
        }
        if let Some(length) = self.payload.length() {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        request.body(body)
    }
}

impl Payload {
    /// Its length in bytes.
    pub fn length(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Whole(bytes) => Some(bytes.len()),
            Self::Dripped { pieces, .. } => Some(pieces.iter().map(Bytes::len).sum()),
        }
    }

    fn is(&self, body: &[u8]) -> bool {
        match self {
            Self::None => true,
            Self::Whole(bytes) => bytes == body,
            Self::Dripped { pieces, .. } => pieces.concat() == body,
        }
    }
}

impl Connection {
    pub(super) async fn new(wire: Wire, client: Client) -> Result<Self, NotOpened> {
        let log = wire.log();
        let handshake = http1::handshake::<_, Body>(TokioIo::new(wire)).await;
        let (sender, connection) = handshake.map_err(|_| NotOpened::Other)?;
        let task = tokio::spawn(async move {
            let _ = connection.await; // how it ended, the wire has seen
        });
        Ok(Self { id: log.connection, sender, log, client, _task: AbortOnDropHandle::new(task) })
    }

    /// Sends a request and waits for its end, whatever it is.
    pub async fn ask(&mut self, ask: Ask) -> Answer {
        let id = self.client.next_request();
        self.exchange(ask, id).await
    }

    /// Sends a request and returns as soon as its first bytes are written.
    pub async fn begin(mut self, ask: Ask) -> Pending {
        let id = self.client.next_request();
        let log = self.log.clone();
        let request = id.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = self.exchange(ask, request.clone()).await;
            self.log.over(request);
            (answer, self)
        }));
        log.sent(&id).await;
        Pending { client_port: log.client_port, task, log, id }
    }

    /// Waits for the connection to end; `None` where it does not in time.
    pub async fn ended(&self, within: Duration) -> Option<Ending> {
        tokio::time::timeout(within, self.log.ended()).await.ok().flatten()
    }

    /// How the connection ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        self.log.ending()
    }

    async fn exchange(&mut self, ask: Ask, id: RequestId) -> Answer {
        let Ok(request) = ask.request(&id) else { return Answer::without(Outcome::Unsent) };
        self.log.announce(ask.announced(&id));
        let mut came = Answer::without(Outcome::Unsent);
        let mut bytes = 0;
        let mut received = Vec::new();
        let exchange = async {
            // After a response hyper may still have to find its end.
            self.sender.ready().await.map_err(|error| self.why(&error))?;
            let response = self.sender.send_request(request).await.map_err(|error| self.why(&error))?;
            self.head(&id, &response, &ask.instance_header, &mut came);
            let body = response.into_body();
            let receiving = self.receive(body, &id, ask.pace, &mut bytes, &mut received);
            receiving.await.map_err(|error| self.why(&error))
        };
        let result = tokio::time::timeout(ask.patience, exchange).await.unwrap_or(Err(Break::TimedOut));
        self.log.rest();
        let recorder = &self.log.recorder;
        came.outcome = match result {
            Ok(()) => {
                let intact = ask.expected.echo.then(|| ask.payload.is(&received));
                recorder.record(Event::Answered { request: id, body_bytes: bytes, intact });
                Outcome::Answered
            }
            Err(_) if came.status.is_none() && !self.log.withdraw(&id) => {
                recorder.record(Event::Unsent { connection: self.id, request: id, role: ask.role });
                Outcome::Unsent
            }
            Err(why) => {
                recorder.record(Event::Broken { request: id, why, body_bytes: bytes });
                Outcome::Lost(why)
            }
        };
        came.bytes = bytes;
        came.body = received.into();
        came
    }

    /// Counts the body and keeps its first part. At a pace there is a pause after each piece, and none where this side
    /// is behind already, as on a machine that has other things to do; and every now and then it says that it still reads.
    async fn receive(
        &self,
        mut body: Incoming,
        id: &RequestId,
        pace: Option<Duration>,
        bytes: &mut u64,
        kept: &mut Vec<u8>,
    ) -> Result<(), hyper::Error> {
        const KEPT: usize = 4 << 20;
        let mut next = Instant::now();
        let mut told = next;
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                *bytes += data.len() as u64;
                kept.extend_from_slice(&data[..data.len().min(KEPT - kept.len())]);
            }
            let Some(pause) = pace else { continue };
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                self.log.recorder.record(Event::Received { request: id.clone(), body_bytes: *bytes });
            }
            next += pause;
            tokio::time::sleep_until(next).await;
        }
        Ok(())
    }

    fn head(&self, id: &RequestId, response: &Response<Incoming>, instance: &HeaderName, came: &mut Answer) {
        let headers = response.headers();
        came.status = Some(response.status().as_u16());
        came.close = says_close(headers, response.version());
        came.instance = text(headers, instance.as_str());
        came.framing = Some(Framing::of(response));
        came.headers.clone_from(headers);
        self.log.recorder.record(Event::Head {
            request: id.clone(),
            status: response.status().as_u16(),
            close: came.close,
            retry_after: headers.contains_key(header::RETRY_AFTER),
            instance: came.instance.clone(),
        });
        self.log.head_came(id);
    }

    fn why(&self, error: &hyper::Error) -> Break {
        match self.log.ending() {
            Some(Ending::Reset) => Break::Reset,
            _ if error.is_parse() => Break::Malformed,
            _ => Break::Fin,
        }
    }
}

fn says_close(headers: &HeaderMap, version: Version) -> bool {
    let says = |token: &str| {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    says("close") || (version == Version::HTTP_10 && !says("keep-alive"))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.chars().take(64).collect())
}

impl Answer {
    pub(super) fn without(outcome: Outcome) -> Self {
        Self {
            outcome,
            status: None,
            close: false,
            instance: None,
            bytes: 0,
            framing: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// A digest of the first part of the body: two that are the same within a run are of the same bytes.
    pub fn digest(&self) -> u64 {
        digest(&self.body)
    }

    /// Whether a complete response below 400 came.
    pub fn served(&self) -> bool {
        self.outcome == Outcome::Answered && self.status.is_some_and(|status| status < 400)
    }
}

impl Pending {
    /// Whether the request is still on its way.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits until it is no longer on its way.
    pub async fn ended(&self) {
        self.log.done(&self.id).await;
    }

    /// Bytes that have come on its connection.
    pub fn received(&self) -> u64 {
        self.log.received()
    }

    /// Waits until the head of the response has come; `false` where none has in time.
    pub async fn answering(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.log.answering(&self.id)).await.is_ok() && self.log.ending().is_none()
    }

    /// Waits for the end of the request; the connection is closed then.
    pub async fn finish(self) -> Answer {
        self.finish_open().await.map_or(Answer::without(Outcome::Unsent), |(answer, _)| answer)
    }

    /// Waits for the end of the request and hands back the connection.
    pub async fn finish_open(self) -> Option<(Answer, Connection)> {
        self.task.await.ok()
    }

    /// Leaves as a client that crashes does: by RST.
    pub async fn leave_by_reset(self) {
        self.log.reset_at_the_end();
        self.leave().await;
    }

    /// Leaves: closes the connection without waiting for the answer.
    pub async fn leave(self) {
        self.task.abort();
        let _ = self.task.await;
        self.log.ended().await;
        self.log.recorder.record(Event::Broken { request: self.id, why: Break::Left, body_bytes: 0 });
    }
}
