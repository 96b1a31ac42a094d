//! The body of an answer on its way to the client: a page of the balancer, or what a target sends, piece by piece.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use tokio::sync::watch;

use super::group::Group;
use super::pool::{Pool, Ready};

/// A request under way. Dropping it before its answer is over ends the connection to the target.
pub struct Exchange {
    ready: Option<Ready>,
    pool: Arc<Pool>,
    group: Arc<Group>,
}

impl Exchange {
    /// A request is about to be sent on this connection.
    pub fn new(ready: Ready, pool: Arc<Pool>, group: Arc<Group>) -> Self {
        Self { ready: Some(ready), pool, group }
    }

    /// The connection, until the answer is over.
    pub fn ready(&mut self) -> Option<&mut Ready> {
        self.ready.as_mut()
    }

    fn is_ended(&self) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.link.is_ended())
    }

    /// The answer is over: the connection is idle.
    fn finish(&mut self) {
        if let Some(ready) = self.ready.take() {
            self.group.spawn(self.pool.clone().put(ready));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.link.abandon();
        }
    }
}

/// A client's connection has a request under way for as long as this lives.
pub struct Busy(Arc<watch::Sender<usize>>);

impl Busy {
    /// One more request.
    pub fn new(requests: &Arc<watch::Sender<usize>>) -> Self {
        requests.send_modify(|count| *count += 1);
        Self(requests.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// A body.
pub enum Answer {
    /// A page of the balancer's own.
    Page(Option<Bytes>),
    /// What a target sends.
    Passing {
        /// Where it comes from.
        body: Incoming,
        /// The connection that it comes on.
        exchange: Exchange,
        /// The connection that it goes to.
        _busy: Busy,
    },
}

impl Answer {
    /// What a target sends.
    pub fn passing(body: Incoming, mut exchange: Exchange, busy: Busy) -> Self {
        if body.is_end_stream() {
            exchange.finish(); // nobody polls a body that is over
        }
        Self::Passing { body, exchange, _busy: busy }
    }
}

/// An answer of the balancer itself: its name in `Server` tells it from one of a target, as on the real thing.
pub fn page(status: u16) -> Response<Answer> {
    let status = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_GATEWAY);
    let text = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\r\n");
    let mut response = Response::new(Answer::Page(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, HeaderValue::from_static("awselb/2.0"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Page(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Passing { body, exchange, .. } => {
                let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    // An end that was made here must not look like the end of the answer.
                    None if exchange.is_ended() => Some(Err(io::Error::from(io::ErrorKind::ConnectionAborted))),
                    frame => frame.map(|frame| frame.map_err(io::Error::other)),
                };
                if frame.is_none() || (matches!(frame, Some(Ok(_))) && body.is_end_stream()) {
                    exchange.finish();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(text) => text.is_none(),
            Self::Passing { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Passing { body, .. } => body.size_hint(),
        }
    }
}
