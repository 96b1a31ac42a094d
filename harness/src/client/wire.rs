//! The stream beneath HTTP: it sees the first byte of a request leave, and how the connection ends. Without it
//! FIN and RST are guesses.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::Method;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::UnderWay;
use super::expected::Expected;
use crate::recorder::Recorder;
use crate::timeline::{ConnectionId, Ending, Event, RequestId, Role};

/// A TCP stream that records.
pub struct Wire {
    stream: TcpStream,
    log: Arc<WireLog>,
}

/// What a wire has seen; outlives it.
pub struct WireLog {
    /// Number of the connection.
    pub connection: ConnectionId,
    /// The other side.
    server: SocketAddr,
    /// This side's port.
    pub client_port: u16,
    /// Where it is recorded.
    pub recorder: Recorder,
    under_way: UnderWay,
    announced: Mutex<Option<Announced>>,
    sent: watch::Sender<Option<RequestId>>,
    answering: watch::Sender<Option<RequestId>>,
    done: watch::Sender<Option<RequestId>>,
    ended: watch::Sender<Option<Ending>>,
    reset: AtomicBool,
    received: AtomicU64,
}

/// A request that is about to be written.
pub struct Announced {
    /// Its id.
    pub id: RequestId,
    /// What it is for.
    pub role: Role,
    /// Its method.
    pub method: Method,
    /// What it asks for.
    pub path: String,
    /// When it was due, where that was planned.
    pub due: Option<Instant>,
    /// The response that is due.
    pub expected: Expected,
}

impl Wire {
    /// Wraps a connected stream.
    pub fn new(
        stream: TcpStream,
        server: SocketAddr,
        connection: ConnectionId,
        recorder: Recorder,
        under_way: UnderWay,
    ) -> Self {
        let log = WireLog {
            connection,
            server,
            client_port: stream.local_addr().map_or(0, |address| address.port()),
            under_way,
            recorder,
            announced: Mutex::new(None),
            sent: watch::Sender::new(None),
            answering: watch::Sender::new(None),
            done: watch::Sender::new(None),
            ended: watch::Sender::new(None),
            reset: AtomicBool::new(false),
            received: AtomicU64::new(0),
        };
        Self { stream, log: Arc::new(log) }
    }

    /// What this wire sees.
    pub fn log(&self) -> Arc<WireLog> {
        self.log.clone()
    }
}

impl WireLog {
    /// Says which request the next bytes belong to.
    pub fn announce(&self, request: Announced) {
        *self.lock() = Some(request);
    }

    /// Whether the announced request has been written, in part at least. Takes it back where it has not.
    pub fn withdraw(&self, id: &RequestId) -> bool {
        let mut announced = self.lock();
        match announced.as_ref() {
            Some(request) if request.id == *id => {
                *announced = None;
                false
            }
            _ => true,
        }
    }

    /// Resolves once this request has been written, in part at least, or never will be.
    pub async fn sent(&self, id: &RequestId) {
        self.reached(&self.sent, id).await;
    }

    /// Notes that this request has ended, written or not.
    pub fn over(&self, id: RequestId) {
        self.done.send_replace(Some(id.clone()));
        self.sent.send_replace(Some(id));
    }

    /// Resolves once this request has ended, written or not.
    pub async fn done(&self, id: &RequestId) {
        let _ = self.done.subscribe().wait_for(|done| done.as_ref() == Some(id)).await;
    }

    /// Resolves once the head of this request's response has come, or never will.
    pub async fn answering(&self, id: &RequestId) {
        self.reached(&self.answering, id).await;
    }

    /// Notes that the head of this request's response has come.
    pub fn head_came(&self, id: &RequestId) {
        self.answering.send_replace(Some(id.clone()));
    }

    async fn reached(&self, stage: &watch::Sender<Option<RequestId>>, id: &RequestId) {
        let mut stage = stage.subscribe();
        let mut ended = self.ended.subscribe();
        tokio::select! {
            _ = stage.wait_for(|reached| reached.as_ref() == Some(id)) => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
    }

    /// Bytes that have come.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Lets the connection end by RST where this side closes it.
    pub fn reset_at_the_end(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// How the connection ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        *self.ended.borrow()
    }

    /// Waits until the connection has ended.
    pub async fn ended(&self) -> Option<Ending> {
        let mut ended = self.ended.subscribe();
        ended.wait_for(Option::is_some).await.ok().and_then(|ending| *ending)
    }

    fn written(&self, begun: Instant) {
        let announced = self.lock().take();
        if let Some(request) = announced {
            let id = request.id.clone();
            self.under_way().insert(self.connection, (self.server, self.client_port, id.clone()));
            self.recorder.record(Event::Sent {
                connection: self.connection,
                request: request.id,
                role: request.role,
                method: (request.method != Method::GET).then(|| request.method.to_string()),
                path: request.path,
                due_us: request.due.map(|due| self.recorder.micros(due)),
                expect_bytes: request.expected.bytes,
                expect_status: request.expected.status,
                begun_us: Some(self.recorder.micros(begun)),
                cut_hidden: request.expected.cut_hidden,
            });
            self.sent.send_replace(Some(id));
        }
    }

    /// Says that no request is under way on this connection any more.
    pub fn rest(&self) {
        self.under_way().remove(&self.connection);
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, (SocketAddr, u16, RequestId)>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, how: Ending) {
        self.ended.send_if_modified(|ended| {
            if ended.is_some() {
                return false;
            }
            self.recorder.record(Event::Ended { connection: self.connection, how });
            *ended = Some(how);
            true
        });
    }

    fn failed(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
            self.end(Ending::Reset);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Announced>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.log.reset.load(Ordering::Relaxed) {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        self.log.rest();
        self.log.end(Ending::Local);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let wanted = buffer.remaining() > 0;
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        match &result {
            Ok(()) if wanted && buffer.filled().len() == before => self.log.end(Ending::Fin),
            Ok(()) => {
                let came = buffer.filled().len() - before;
                self.log.received.fetch_add(came as u64, Ordering::Relaxed);
            }
            Err(error) => self.log.failed(error),
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let begun = Instant::now();
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        match &result {
            Ok(0) => {}
            Ok(_) => self.log.written(begun),
            Err(error) => self.log.failed(error),
        }
        Poll::Ready(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Never half-close: several servers drop the request then. Dropping the stream closes it.
        Poll::Ready(Ok(()))
    }
}
