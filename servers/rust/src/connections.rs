//! Connections: who is connected, in which state, and how a connection ends without losing anything.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, SetOnce};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::config::Settings;
use crate::routes::MAX_HEAD_BYTES;

/// However many fields fit into a head: the shortest is `a:` and the end of its line.
const MAX_FIELDS: usize = MAX_HEAD_BYTES / 4;

/// Where a connection stands between two requests.
#[derive(Clone, Copy, PartialEq)]
pub enum ConnectionState {
    /// Open, and no byte has come. Becomes active or closing.
    Unused,
    /// From the first byte of a request to the last of its response. Becomes idle or closing.
    Active,
    /// Between two requests. Becomes active or closing.
    Idle,
    /// Our FIN is out; what still comes is discarded.
    Closing,
}

impl ConnectionState {
    pub fn name(self) -> &'static str {
        ["unused", "active", "idle", "closing"][self as usize]
    }
}

/// What a request counts against.
#[derive(Clone, Copy, PartialEq)]
pub enum Limit {
    InFlight,
    /// Apart, because endless ones would use up MAX_IN_FLIGHT for ever.
    Streams,
    /// A probe must get through under load.
    None,
}

/// What the registry knows of a connection. Any task may ask; only the connection's own changes it.
pub struct Connection {
    pub registry: Arc<Registry>,
    pub refused: bool, // above MAX_CONNECTIONS
    id: usize,
    standing: Mutex<Standing>,
}

struct Standing {
    state: ConnectionState,
    since: Option<Instant>, // the opening, the first byte of a head, or the end of a response; unset: now
    in_flight: bool,        // a whole head has come, its response is not complete
    limit: Limit,           // that the request in flight counts against
    sending: bool,          // the rest of the response waits for nothing but the client
    response_ended: bool,   // hyper has taken the end of the response, but may not have written it
}

impl Connection {
    /// Notes that a byte of a request has come.
    fn activate(&self) {
        let mut standing = self.standing();
        match standing.state {
            ConnectionState::Unused => standing.state = ConnectionState::Active, // its time runs already
            ConnectionState::Idle => {
                standing.state = ConnectionState::Active;
                standing.since = None; // most heads come whole, and need no clock
            }
            ConnectionState::Active | ConnectionState::Closing => {}
        }
    }

    /// Notes whether the rest of the response waits for nothing but the client. One that closes its side then still
    /// gets it; one that does so while a handler waits is taken for one that has left, for both look the same.
    pub fn set_sending(&self, sending: bool) {
        self.standing().sending = sending;
    }

    /// Notes that hyper has taken the end of the response.
    pub fn end_response(&self) {
        self.standing().response_ended = true;
    }

    /// Everything that hyper has taken is written: if the end of the response is among it, the request is
    /// answered. Where hyper has read ahead, the next one has begun to arrive.
    fn finish_request(&self, read_ahead: bool) -> bool {
        let mut standing = self.standing();
        if !standing.in_flight || !standing.response_ended {
            return false;
        }
        self.registry.finish_request(&mut standing);
        standing.state = if read_ahead { ConnectionState::Active } else { ConnectionState::Idle };
        standing.since = Some(Instant::now());
        true
    }

    fn set_closing(&self) {
        let mut standing = self.standing();
        standing.state = ConnectionState::Closing;
        self.registry.finish_request(&mut standing);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap()
    }

    /// Until when the next bytes must come. Nothing but the client's leaving is awaited during a request.
    fn read_deadline(&self) -> Option<Instant> {
        let mut standing = self.standing();
        if standing.in_flight {
            return None;
        }
        let settings = self.registry.settings.now();
        let since = *standing.since.get_or_insert_with(Instant::now);
        Some(match (standing.state, self.registry.draining.get()) {
            // The last chance, also where no byte ever came.
            // rule: late-request-answered, idle-holds-nothing, unused-holds-nothing
            (ConnectionState::Idle | ConnectionState::Unused, Some(&(closed, idle_linger))) => {
                since.max(closed) + idle_linger
            }
            // rule: keep-alive-outlasts-balancer
            (ConnectionState::Idle, None) => since + settings.keep_alive_timeout,
            // A head that began to arrive, and the first one of all. rule: slow-head-bounded, half-request-holds-nothing
            _ => since + settings.header_timeout,
        })
    }
}

/// Sits between hyper and the socket: it sees the first byte of each request, ends a wait that has lasted
/// long enough, and knows when a response is written.
pub struct ConnectionIo {
    pub connection: Arc<Connection>,
    stream: TcpStream,
    rejected: bool, // a head, by hyper with 431, which has been told to read it once more
    again: Bytes,   // that head
    timer: Pin<Box<Sleep>>,
    /// The last read found nothing. hyper reads on while a handler runs, but only once it has used up what it
    /// read before: a read that waits means that it holds no byte of a next request.
    waiting: bool,
    client_closed: bool, // its side, while it is sent a response
    write_timer: Pin<Box<Sleep>>,
    stuck: bool,     // the client takes nothing: write_timer runs
    timed_out: bool, // it has taken nothing for too long
}

impl ConnectionIo {
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.connection.read_deadline() else {
            return Poll::Pending;
        };
        // A timer that rings too early stays, and is set again when it rings: a busy connection, whose
        // deadline moves on with every request, does not set it each time.
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        ready!(self.timer.as_mut().poll(cx));
        if self.timer.deadline() < deadline {
            self.timer.as_mut().reset(deadline);
            ready!(self.timer.as_mut().poll(cx));
        }
        // The runtime learns late that bytes have come, the kernel knows.
        // rule: nothing-lost-on-keep-alive, nothing-lost-in-peace
        if self.connection.standing().state != ConnectionState::Active && self.input_waits() {
            self.connection.activate();
            return Poll::Pending; // the runtime is about to report them
        }
        Poll::Ready(())
    }

    fn input_waits(&self) -> bool {
        let peeked = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_ok_and(|bytes| bytes > 0)
    }

    /// FIN after everything that was written. Closing a socket with unread input would send RST and could
    /// destroy the response on its way (RFC 9112, 9.6), so: FIN, discard, close. rule: idle-closed-by-fin
    async fn half_close(&mut self) {
        let _ = self.shutdown().await;
        // Once, whatever still comes. rule: kept-open-holds-nothing
        let close_timeout = self.connection.registry.settings.now().close_timeout;
        let _ = timeout(close_timeout, tokio::io::copy(&mut self.stream, &mut tokio::io::sink())).await;
    }
}

impl AsyncRead for ConnectionIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        if !io.again.is_empty() {
            let length = io.again.len().min(buf.remaining());
            buf.put_slice(&io.again.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut io.stream).poll_read(cx, buf);
        io.waiting = read.is_pending();
        if io.waiting {
            // To hyper a wait that is over looks like a client that left: it finishes by itself.
            return io.poll_deadline(cx).map(Ok);
        }
        if buf.filled().len() > before {
            io.connection.activate();
        } else if io.connection.standing().sending {
            // hyper would stop in the middle; it hears of it when the response is written.
            (io.waiting, io.client_closed) = (true, true);
            return Poll::Pending;
        }
        read
    }
}

impl AsyncWrite for ConnectionIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    /// Bounds the time in which the client takes nothing: with each byte that it does take it begins anew.
    /// rule: slow-reader-bounded
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        // What hyper says where no request is in flight rejects a head: with this status for its size or its many fields.
        let too_large = data.first().is_some_and(|answer| answer.get(9..12) == Some(b"431"));
        if too_large && !io.rejected && !io.connection.standing().in_flight {
            io.rejected = true;
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if let Poll::Ready(written) = Pin::new(&mut io.stream).poll_write_vectored(cx, data) {
            io.stuck = false;
            return Poll::Ready(written);
        }
        if !io.stuck {
            io.stuck = true;
            let deadline = Instant::now() + io.connection.registry.settings.now().write_timeout;
            io.write_timer.as_mut().reset(deadline);
        }
        ready!(io.write_timer.as_mut().poll(cx));
        io.timed_out = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this whenever all that it holds is written. Between requests it does not read again before
    /// it is woken: the time that a connection may be idle begins here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        if io.connection.finish_request(!io.waiting) && (io.client_closed || io.poll_deadline(cx).is_ready()) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.set_closing();
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Drop for ConnectionIo {
    fn drop(&mut self) {
        self.connection.set_closing();
        self.connection.registry.forget(&self.connection);
    }
}

/// Knows every open connection. Any task may call.
pub struct Registry {
    settings: Arc<Settings>,
    connections: Mutex<Connections>,
    in_flight: [AtomicUsize; 3], // requests by limit
    answered: Notify,
    draining: SetOnce<(Instant, Duration)>, // since when, and IDLE_LINGER as it was then
    drained: SetOnce<()>,
    cut: SetOnce<()>,
}

#[derive(Default)]
struct Connections {
    open: HashMap<usize, Arc<Connection>>,
    refused: usize, // of the open ones, those above MAX_CONNECTIONS
    next_id: usize,
}

impl Registry {
    pub fn new(settings: Arc<Settings>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            connections: Mutex::default(),
            in_flight: Default::default(),
            answered: Notify::new(),
            draining: SetOnce::new(),
            drained: SetOnce::new(),
            cut: SetOnce::new(),
        })
    }

    /// Registers a connection, to be refused where there are too many. Above twice the limit there is nothing
    /// left to refuse politely.
    pub fn open(self: &Arc<Self>, stream: TcpStream) -> Option<ConnectionIo> {
        let _ = stream.set_nodelay(true); // or small chunks wait until the one before is acknowledged
        let settings = self.settings.now();
        let now = Instant::now();
        let mut connections = self.connections.lock().unwrap();
        if connections.open.len() >= 2 * settings.max_connections {
            return None;
        }
        let refused = connections.open.len() - connections.refused >= settings.max_connections;
        let standing = Mutex::new(Standing {
            state: if refused { ConnectionState::Closing } else { ConnectionState::Unused },
            since: Some(now),
            in_flight: false,
            limit: Limit::None,
            sending: false,
            response_ended: false,
        });
        let id = connections.next_id;
        let connection = Arc::new(Connection { registry: Arc::clone(self), refused, id, standing });
        connections.next_id += 1;
        connections.refused += usize::from(refused);
        connections.open.insert(id, Arc::clone(&connection));
        let timer = Box::pin(sleep_until(now + settings.header_timeout));
        let write_timer = Box::pin(sleep_until(now));
        Some(ConnectionIo {
            connection,
            stream,
            rejected: false,
            again: Bytes::new(),
            timer,
            waiting: false,
            client_closed: false,
            write_timer,
            stuck: false,
            timed_out: false,
        })
    }

    /// Counts a request whose head is complete. False above its limit. rule: overload-sheds
    pub fn begin_request(&self, connection: &Connection, limit: Limit) -> bool {
        let mut standing = connection.standing();
        standing.in_flight = true;
        standing.limit = limit;
        standing.sending = false;
        standing.response_ended = false;
        let in_flight = self.in_flight[limit as usize].fetch_add(1, Ordering::Relaxed) + 1;
        match limit {
            Limit::InFlight => in_flight <= self.settings.now().max_in_flight,
            Limit::Streams => in_flight <= self.settings.now().max_streams, // rule: streams-limited-apart
            Limit::None => true,
        }
    }

    fn finish_request(&self, standing: &mut Standing) {
        standing.sending = false;
        if standing.in_flight {
            standing.in_flight = false;
            self.in_flight[standing.limit as usize].fetch_sub(1, Ordering::Relaxed);
            self.answered.notify_waiters();
        }
    }

    /// Called once, when the listener has closed: whoever is idle, or becomes idle, may ask once more.
    pub fn begin_drain(&self) {
        let _ = self.draining.set((Instant::now(), self.settings.now().idle_linger));
        self.report_drained(&self.connections.lock().unwrap());
    }

    /// Ends every connection at once and returns how many requests that cost.
    pub fn cut_in_flight(&self) -> usize {
        let connections = self.connections.lock().unwrap();
        let cut = connections.open.values().filter(|connection| connection.standing().in_flight).count();
        let _ = self.cut.set(());
        cut
    }

    /// Returns when no request is in flight.
    pub async fn answered(&self) {
        loop {
            let mut another = pin!(self.answered.notified());
            another.as_mut().enable(); // or one that is finished right now would go unheard
            if self.requests() == 0 {
                return;
            }
            another.await;
        }
    }

    /// Returns when, after `begin_drain`, no connection is left. rule: load-does-not-hold-exit
    pub async fn drained(&self) {
        self.drained.wait().await;
    }

    fn forget(&self, connection: &Connection) {
        let mut connections = self.connections.lock().unwrap();
        connections.open.remove(&connection.id);
        connections.refused -= usize::from(connection.refused);
        self.report_drained(&connections);
    }

    fn report_drained(&self, connections: &Connections) {
        if self.draining.initialized() && connections.open.is_empty() {
            let _ = self.drained.set(());
        }
    }

    /// Returns the requests in flight and the connections in each state, for /metrics.
    pub fn count(&self) -> (usize, [usize; 4]) {
        let mut states = [0; 4];
        for connection in self.connections.lock().unwrap().open.values() {
            states[connection.standing().state as usize] += 1;
        }
        (self.requests(), states)
    }

    fn requests(&self) -> usize {
        self.in_flight.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Lets hyper talk to a client until either has had enough, then closes.
pub async fn serve<H, F, B>(mut io: ConnectionIo, handle: H)
where
    H: Fn(Arc<Connection>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes, Error = Infallible> + 'static,
{
    let connection = Arc::clone(&io.connection);
    let mut http = http1::Builder::new();
    http.max_header_size(MAX_HEAD_BYTES);
    http.header_read_timeout(None); // its time would run while a connection is idle, too
    let conversation = async {
        let mut again = false;
        loop {
            let service = service_fn(|request| handle(Arc::clone(&connection), request));
            let mut hyper = http.serve_connection(TokioIo::new(&mut io), service);
            let _ = (&mut hyper).await; // an error means that the client has left, or was cut off by a deadline
            let unread = hyper.into_parts().read_buf;
            if again || !io.rejected {
                break;
            }
            // hyper makes room for as many fields as it may take, for each head anew. For all that fit, that takes
            // longer than the rest of a request: so it begins with its own 100, and has another look.
            (again, io.again) = (true, unread);
            http.max_headers(MAX_FIELDS);
        }
        if !io.timed_out {
            io.half_close().await;
        }
    };
    let in_flight = !until_cut(&connection, conversation).await && connection.standing().in_flight;
    if in_flight || io.timed_out {
        // By RST, because a FIN can look like the end of a response that has no length. rule: cut-is-visible
        let _ = io.stream.set_zero_linger();
    }
}

/// Answers a connection above MAX_CONNECTIONS without giving it to hyper.
pub async fn refuse(mut io: ConnectionIo) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
        Content-Length: 33\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
        {\"error\":\"too many connections\"}\n";
    let connection = Arc::clone(&io.connection);
    let refusal = async {
        let close_timeout = connection.registry.settings.now().close_timeout;
        let _ = timeout(close_timeout, io.stream.write_all(ANSWER)).await;
        io.half_close().await;
    };
    until_cut(&connection, refusal).await;
}

/// Goes on until the conversation ends, or, returning false, is cut. When the drain begins, hyper is polled again: it
/// asks for input, and so for the deadline that is in force from then on.
async fn until_cut(connection: &Connection, conversation: impl Future<Output = ()>) -> bool {
    let registry = &connection.registry;
    let mut conversation = pin!(conversation);
    let (mut cut, mut drain) = (pin!(registry.cut.wait()), pin!(registry.draining.wait()));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            _ = &mut cut => return false,
            _ = &mut drain, if !draining => draining = true,
            () = &mut conversation => return true,
        }
    }
}
