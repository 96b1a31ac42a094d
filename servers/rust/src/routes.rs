//! Routes: what the server answers, and the limits on what a client may send.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use hyper::{Method, StatusCode, Version};
use percent_encoding::percent_decode_str;
use tokio::time::{sleep, timeout};

use crate::config::{DrainPolicy, Settings, parse_integer, parse_seconds};
use crate::connections::{Connection, ConnectionState, Limit, Registry};
use crate::lifecycle::{Lifecycle, Phase, Value};
use crate::log::{lines_dropped, log_event};

use Handler::{Later, Now};

const X_INSTANCE_ID: HeaderName = HeaderName::from_static("x-instance-id");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_SLOW: f64 = 300.0; // seconds
const MAX_BYTES: usize = 256 << 20;
const MAX_CHUNKS: usize = 10_000;
const MAX_INTERVAL: f64 = 60.0; // seconds

/// Ends a handler with an answer.
struct RequestError {
    status: StatusCode,
    reason: String,
    field: Option<(HeaderName, HeaderValue)>, // of the head, besides those of every one
}

impl RequestError {
    fn new(status: StatusCode, reason: &str) -> Self {
        Self { status, reason: reason.to_owned(), field: None }
    }

    fn retry_later(status: StatusCode, reason: &str) -> Self {
        Self { field: Some((RETRY_AFTER, HeaderValue::from_static("1"))), ..Self::new(status, reason) }
    }
}

/// What a handler gets: parsed, its body received whole. The head itself is not kept: as long as it lives,
/// hyper cannot use its buffer again.
struct Request {
    query: String,
    content_type: Option<HeaderValue>,
    id: Option<String>,
    is_head: bool,
    closes: bool,  // whatever is answered
    expects: bool, // an invitation to send its body
    unread: bool,  // the body, or part of it
    body: Bytes,
}

type Response = hyper::Response<Content>;
type Answer = Result<Response, RequestError>;
pub type Sent = Result<hyper::Response<ResponseBody>, Infallible>;
type Pending<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Only few handlers wait: the others need no future, and no box for it.
#[derive(Clone, Copy)]
enum Handler {
    Now(fn(&App, &Request) -> Answer),
    Later(for<'a> fn(&'a App, &'a Request) -> Pending<'a>),
}

struct Route {
    method: Method,
    path: &'static str,
    handle: Handler,
    limit: Limit,
}

/// What the handlers share, and the handlers.
pub struct App {
    pub settings: Arc<Settings>,
    pub lifecycle: Arc<Lifecycle>,
    pub registry: Arc<Registry>,
    pub instance: HeaderValue,
}

fn routes() -> impl Iterator<Item = &'static Route> {
    const SLOW: Handler = Later(|app, request| Box::pin(app.slow(request)));
    static ROUTES: [Route; 6] = [
        Route { method: Method::GET, path: "/", handle: Now(App::root), limit: Limit::InFlight },
        Route { method: Method::GET, path: "/slow", handle: SLOW, limit: Limit::InFlight },
        Route { method: Method::POST, path: "/echo", handle: Now(App::echo), limit: Limit::InFlight },
        Route { method: Method::GET, path: "/bytes", handle: Now(App::bytes), limit: Limit::InFlight },
        Route { method: Method::GET, path: "/stream", handle: Now(App::stream), limit: Limit::InFlight },
        Route { method: Method::GET, path: "/events", handle: Now(App::events), limit: Limit::Streams },
    ];
    ROUTES.iter().chain(health_routes())
}

fn admin_routes() -> impl Iterator<Item = &'static Route> {
    const PRESTOP: Handler = Later(|app, _| Box::pin(app.prestop()));
    static ROUTES: [Route; 3] = [
        Route { method: Method::GET, path: "/metrics", handle: Now(App::metrics), limit: Limit::None },
        Route { method: Method::GET, path: "/prestop", handle: PRESTOP, limit: Limit::None },
        Route { method: Method::POST, path: "/prestop", handle: PRESTOP, limit: Limit::None },
    ];
    ROUTES.iter().chain(health_routes())
}

fn health_routes() -> &'static [Route] {
    static ROUTES: [Route; 3] = [
        Route { method: Method::GET, path: "/health", handle: Now(App::ready), limit: Limit::None },
        Route { method: Method::GET, path: "/health/live", handle: Now(App::live), limit: Limit::None },
        Route { method: Method::GET, path: "/health/ready", handle: Now(App::ready), limit: Limit::None },
    ];
    &ROUTES
}

impl App {
    /// Serves the traffic listener: every request is counted, limited and in flight until it is answered.
    pub fn handle(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Sent> {
        let found = find(routes(), &request);
        let (mut request, incoming) = (Request::new(&request), request.into_body());
        // Here, and not when the future is polled: hyper reads on in between.
        let limit = found.as_ref().map_or(Limit::InFlight, |route| route.limit);
        let admitted = self.registry.begin_request(&connection, limit);
        if !request.unread && found.as_ref().is_ok_and(|route| matches!(route.handle, Now(_))) {
            connection.set_sending(true); // before hyper reads on: the client may have closed its side already
        }
        async move {
            let draining = self.lifecycle.phase() >= Phase::Draining;
            let answer = if draining && self.settings.now().drain_policy == DrainPolicy::Reject {
                Err(RequestError::retry_later(StatusCode::SERVICE_UNAVAILABLE, "shutting down"))
            } else if !admitted {
                Err(RequestError::retry_later(StatusCode::TOO_MANY_REQUESTS, "too many requests in flight"))
            } else {
                self.dispatch(found, &mut request, incoming).await
            };
            self.send_head(answer, &request, connection)
        }
    }

    /// Serves the admin listener, whose requests are nobody's traffic.
    pub fn handle_admin(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Sent> {
        let found = find(admin_routes(), &request);
        let (mut request, incoming) = (Request::new(&request), request.into_body());
        connection.registry.begin_request(&connection, Limit::None);
        async move {
            let answer = self.dispatch(found, &mut request, incoming).await;
            self.send_head(answer, &request, connection)
        }
    }

    async fn dispatch(&self, found: Result<&Route, RequestError>, request: &mut Request, incoming: Incoming) -> Answer {
        let found = match found {
            // Its body is not clear either; or it is not wanted, and so not invited.
            Err(error) if is_ambiguous(error.status) || request.expects => return Err(error),
            found => found,
        };
        if request.unread {
            // In a box: most requests have none, and hyper moves the whole future more than once.
            request.body = Box::pin(self.read_body(incoming)).await?;
            request.unread = false;
        }
        match found?.handle {
            Now(handle) => handle(self, request),
            Later(handle) => handle(self, request).await,
        }
    }

    /// Receives the whole body, within BODY_TIMEOUT in all rather than for each read. It is what makes hyper
    /// answer "Expect: 100-continue". rule: stalled-body-bounded, continue-answered
    async fn read_body(&self, incoming: Incoming) -> Result<Bytes, RequestError> {
        let settings = self.settings.now();
        let limit = settings.max_body_bytes;
        let too_large =
            || RequestError::new(StatusCode::PAYLOAD_TOO_LARGE, &format!("a body is at most {limit} bytes"));
        if incoming.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        match timeout(settings.body_timeout, Limited::new(incoming, limit).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(RequestError::new(StatusCode::BAD_REQUEST, "the body is malformed or incomplete")),
            Err(_) => Err(RequestError::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
        }
    }

    fn root(&self, _: &Request) -> Answer {
        let phase = self.lifecycle.phase().name();
        Ok(send_json(StatusCode::OK, ["{\"server\":\"rust\",\"phase\":\"", phase, "\"}\n"].concat()))
    }

    /// A request that takes its time. Where the client leaves, hyper drops this future.
    /// rule: client-gone-releases
    async fn slow(&self, request: &Request) -> Answer {
        let delay = request.seconds("delay", 1.0, MAX_SLOW)?;
        sleep(delay).await;
        Ok(send_json(StatusCode::OK, format!("{{\"slept\":{}}}\n", delay.as_secs_f64())))
    }

    fn echo(&self, request: &Request) -> Answer {
        let unknown = HeaderValue::from_static("application/octet-stream");
        let content_type = request.content_type.clone().unwrap_or(unknown);
        Ok(send(content_type, Content::Whole(request.body.clone())))
    }

    fn bytes(&self, request: &Request) -> Answer {
        let size = request.integer("size", 1024, 0, MAX_BYTES)?;
        Ok(send(HeaderValue::from_static("application/octet-stream"), Content::Zeros(size)))
    }

    /// Finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated
    fn stream(&self, request: &Request) -> Answer {
        let chunks = request.integer("chunks", 10, 1, MAX_CHUNKS)?;
        let interval = request.seconds("interval", 0.1, MAX_INTERVAL)?;
        let numbered = count_to(chunks, interval);
        Ok(send(HeaderValue::from_static("text/plain"), Content::Chunks(Box::pin(numbered))))
    }

    /// Has no end of its own: when the listener closes, it ends as if it had, with the final chunk.
    /// rule: endless-stream-ends
    fn events(&self, _: &Request) -> Answer {
        let seconds = count_seconds(Arc::clone(&self.lifecycle));
        Ok(send(HeaderValue::from_static("text/event-stream"), Content::Chunks(Box::pin(seconds))))
    }

    /// Says that a restart would not help; a shutdown is no reason for one. rule: liveness-stays
    fn live(&self, _: &Request) -> Answer {
        Ok(send_json(StatusCode::OK, self.phase_line()))
    }

    fn ready(&self, _: &Request) -> Answer {
        let ready = self.lifecycle.is_ready();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Ok(send_json(status, self.phase_line()))
    }

    fn metrics(&self, _: &Request) -> Answer {
        let (in_flight, states) = self.registry.count();
        let mut text = format!("# TYPE http_requests_in_flight gauge\nhttp_requests_in_flight {in_flight}\n");
        text += "# TYPE http_connections gauge\n";
        for state in [ConnectionState::Unused, ConnectionState::Active, ConnectionState::Idle] {
            text += &format!("http_connections{{state=\"{}\"}} {}\n", state.name(), states[state as usize]);
        }
        text += "# TYPE lifecycle_phase gauge\n";
        text += &format!("lifecycle_phase{{phase=\"{}\"}} 1\n", self.lifecycle.phase().name());
        text += "# TYPE log_lines_dropped_total counter\n";
        for (stream, dropped) in lines_dropped() {
            text += &format!("log_lines_dropped_total{{stream=\"{stream}\"}} {dropped}\n");
        }
        Ok(send(HeaderValue::from_static("text/plain; version=0.0.4"), Content::Whole(text.into())))
    }

    /// Takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops
    /// nothing: the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process
    async fn prestop(&self) -> Answer {
        self.lifecycle.begin_lame_duck("prestop").await; // rule: lame-duck-serves
        Ok(send_json(StatusCode::OK, self.phase_line()))
    }

    fn phase_line(&self) -> String {
        ["{\"phase\":\"", self.lifecycle.phase().name(), "\"}\n"].concat()
    }

    /// Adds what belongs to every head. hyper writes it as soon as this returns: the phase is the one of that
    /// moment, though it may have changed since the request came.
    fn send_head(&self, answer: Answer, request: &Request, connection: Arc<Connection>) -> Sent {
        let mut closes = request.closes;
        let response = answer.unwrap_or_else(|error| {
            closes |= request.unread || is_ambiguous(error.status);
            fail(error)
        });
        let mut response = response.map(|content| ResponseBody { content, connection });
        let (status, length) = (response.status(), response.body().size_hint().exact());
        let headers = response.headers_mut();
        headers.insert(X_INSTANCE_ID, self.instance.clone());
        // hyper then reads no further request. rule: pipelined-in-order
        if closes || self.lifecycle.stopping() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if request.is_head {
            headers.extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
            response.body_mut().content = Content::Whole(Bytes::new());
        }
        if status.as_u16() < 400
            && let Some(id) = &request.id
        {
            log_event("executed", &[("request_id", Value::Text(id))]);
        }
        let body = response.body();
        body.connection.set_sending(!matches!(body.content, Content::Chunks(_)));
        Ok(response)
    }
}

fn send(content_type: HeaderValue, content: Content) -> Response {
    let mut response = Response::new(content);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn send_json(status: StatusCode, line: String) -> Response {
    let mut response = send(HeaderValue::from_static("application/json"), Content::Whole(line.into()));
    *response.status_mut() = status;
    response
}

fn fail(error: RequestError) -> Response {
    let reason = serde_json::to_string(&error.reason).unwrap_or_default();
    let mut response = send_json(error.status, format!("{{\"error\":{reason}}}\n"));
    response.headers_mut().extend(error.field);
    response
}

/// Returns the route of a request, or how to reject it. HEAD is answered wherever GET is, but where a client would
/// wait for ever.
fn find(
    routes: impl Iterator<Item = &'static Route>,
    request: &hyper::Request<Incoming>,
) -> Result<&'static Route, RequestError> {
    check_framing(request)?;
    let path = decode_path(request.uri().path())?;
    let mut allowed = Vec::new();
    for route in routes.filter(|route| route.path == path) {
        let has_head = route.method == Method::GET && route.limit != Limit::Streams;
        if route.method == *request.method() || has_head && request.method() == Method::HEAD {
            return Ok(route);
        }
        allowed.push(route.method.as_str());
        allowed.extend(has_head.then_some("HEAD"));
    }
    if allowed.is_empty() {
        return Err(RequestError::new(StatusCode::NOT_FOUND, "no such path"));
    }
    let field = HeaderValue::try_from(allowed.join(", ")).map(|allowed| (ALLOW, allowed)).ok();
    Err(RequestError { field, ..RequestError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed") })
}

/// Rejects what hyper takes, and a proxy may read otherwise.
fn check_framing(request: &hyper::Request<Incoming>) -> Result<(), RequestError> {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let valid = match (hosts.next(), hosts.next()) {
        (Some(host), None) => !host.as_bytes().iter().any(|byte| b" \t,/?#@\\".contains(byte)),
        (None, _) => request.version() == Version::HTTP_10,
        (Some(_), Some(_)) => false,
    };
    if !valid {
        return Err(RequestError::new(StatusCode::BAD_REQUEST, "a request has one Host field"));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(RequestError::new(StatusCode::NOT_IMPLEMENTED, "a body is chunked, or has a length")),
    }
}

/// Whether a status says that a request may be read in two ways, and so may what follows it.
fn is_ambiguous(status: StatusCode) -> bool {
    status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_IMPLEMENTED
}

fn decode_path(path: &str) -> Result<Cow<'_, str>, RequestError> {
    let escapes = path.split('%').skip(1);
    let mut digits = escapes.map(|escape| escape.bytes().take(2).filter(u8::is_ascii_hexdigit).count());
    if digits.any(|digits| digits < 2) {
        return Err(RequestError::new(StatusCode::BAD_REQUEST, "the request target is malformed"));
    }
    Ok(percent_decode_str(path).decode_utf8_lossy())
}

/// The one `X-Request-Id`, where it has the form `[A-Za-z0-9._-]{1,64}`.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    let (id, None) = (ids.next()?.to_str().ok()?, ids.next()) else { return None };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    ((1..=64).contains(&id.len()) && id.bytes().all(allowed)).then(|| id.to_owned())
}

impl Request {
    fn new(request: &hyper::Request<Incoming>) -> Self {
        let headers = request.headers();
        Self {
            query: request.uri().query().unwrap_or_default().to_owned(),
            content_type: headers.get(CONTENT_TYPE).cloned(),
            id: request_id(headers),
            is_head: request.method() == Method::HEAD,
            // hyper hides whether a chunked request had a Content-Length, too (RFC 9112, 6.1).
            closes: headers.contains_key(TRANSFER_ENCODING),
            expects: headers.contains_key(EXPECT),
            unread: !request.body().is_end_stream(),
            body: Bytes::new(),
        }
    }

    fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|pair| pair.0 == name).map(|pair| pair.1).filter(|value| !value.is_empty())
    }

    fn seconds(&self, name: &str, fallback: f64, limit: f64) -> Result<Duration, RequestError> {
        let Some(text) = self.parameter(name) else { return Ok(Duration::from_secs_f64(fallback)) };
        let reason = || format!("{name}: {text:?} is not decimal seconds from 0 to {limit}");
        parse_seconds(&text, limit).ok_or_else(|| RequestError::new(StatusCode::UNPROCESSABLE_ENTITY, &reason()))
    }

    fn integer(&self, name: &str, fallback: usize, low: usize, high: usize) -> Result<usize, RequestError> {
        let Some(text) = self.parameter(name) else { return Ok(fallback) };
        let reason = || format!("{name}: {text:?} is not an integer from {low} to {high}");
        parse_integer(&text, low, high).ok_or_else(|| RequestError::new(StatusCode::UNPROCESSABLE_ENTITY, &reason()))
    }
}

/// The body of a response, before hyper frames it.
enum Content {
    Whole(Bytes),
    Zeros(usize),
    /// Part of the response, not a task of its own: it ends with its connection, and a panic does not look like the
    /// end of the stream.
    Chunks(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

fn count_to(chunks: usize, interval: Duration) -> impl Stream<Item = Bytes> {
    unfold(0, move |number| async move {
        if number == chunks {
            return None;
        }
        if number > 0 {
            sleep(interval).await;
        }
        Some((format!("chunk {number}\n").into(), number + 1))
    })
}

fn count_seconds(lifecycle: Arc<Lifecycle>) -> impl Stream<Item = Bytes> {
    unfold((0, lifecycle), async |(number, lifecycle)| {
        if number > 0 {
            tokio::select! {
                () = sleep(Duration::from_secs(1)) => {}
                () = lifecycle.listener_closed() => return None,
            }
        }
        Some((format!("data: {number}\n\n").into(), (number + 1, lifecycle)))
    })
}

/// Tells the connection when hyper has taken all of it.
pub struct ResponseBody {
    content: Content,
    connection: Arc<Connection>,
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.connection.end_response();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static BLOCK: [u8; 64 << 10] = [0; 64 << 10];
        let chunk = match &mut self.content {
            Content::Whole(bytes) => std::mem::take(bytes),
            Content::Zeros(left) => {
                let block = (*left).min(BLOCK.len());
                *left -= block;
                Bytes::from_static(&BLOCK[..block])
            }
            Content::Chunks(chunks) => match ready!(chunks.as_mut().poll_next(cx)) {
                Some(chunk) => chunk,
                None => return Poll::Ready(None),
            },
        };
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    /// Where it is exact, hyper sends it as Content-Length; otherwise the response is chunked.
    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Zeros(left) => SizeHint::with_exact(*left as u64),
            Content::Chunks(_) => SizeHint::default(),
        }
    }
}
