//! A node of the balancer: its listener, the connections of its clients, and the way of each request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::answer::{Answer, Busy, Exchange, page};
use super::fields;
use super::group::Group;
use super::pool::Pool;
use super::wire::{Traffic, Wire};
use crate::model::target_group::{Fault, NodeId};

/// Connections of clients that a node serves at the same time; more wait in the kernel. The real one grows.
const CONNECTIONS: usize = 1024;
/// The longest head of a request, in bytes, [as AWS documents it].
///
/// [as AWS documents it]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html
const HEAD: usize = 64 * 1024;
/// How long nobody is accepted after that has failed: most often no descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// A node.
pub struct Node {
    id: NodeId,
    address: SocketAddr,
    group: Arc<Group>,
    pool: Arc<Pool>,
}

/// The connection of a client.
struct Client {
    address: SocketAddr,
    opened: Duration,
    traffic: Arc<Traffic>,
    /// Requests under way.
    requests: Arc<watch::Sender<usize>>,
}

impl Client {
    /// Waits until nothing has moved for so long and nothing is under way: while a target owes an answer, its own
    /// silence decides.
    async fn silent(&self, idle_timeout: Duration) {
        let mut requests = self.requests.subscribe();
        loop {
            if requests.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.traffic.silent(idle_timeout) => return,
                _ = requests.wait_for(|count| *count > 0) => {}
            }
        }
    }
}

impl Node {
    /// Accepts clients until it is dropped.
    pub async fn run(id: NodeId, listener: TcpListener, group: Arc<Group>) {
        let Ok(address) = listener.local_addr() else { return };
        let pool = Arc::new(Pool::new(id, group.clone()));
        let node = Arc::new(Self { id, address, group, pool });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, client)) => {
                    let serving = node.clone().serve(stream, client);
                    node.group.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let wire = Wire::new(stream);
        let requests = Arc::new(watch::Sender::new(0));
        let client = Arc::new(Client { address, opened: self.group.now(), traffic: wire.traffic(), requests });
        let idle_timeout = self.group.settings.idle_timeout;
        let (node, of) = (self.clone(), client.clone());
        let service = service_fn(move |request| {
            let (node, client) = (node.clone(), of.clone());
            async move { Ok::<_, Infallible>(node.answer(&client, request).await) }
        });
        let connection = Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle_timeout)
            .max_header_size(HEAD)
            .serve_connection(TokioIo::new(wire), service);
        tokio::select! {
            _ = connection => {}
            () = client.silent(idle_timeout) => {}
        }
    }

    async fn answer(&self, client: &Client, request: Request<Incoming>) -> Response<Answer> {
        let busy = Busy::new(&client.requests);
        client.traffic.touch();
        let mut response = match request.method() {
            // AWS documents 405 for TRACE; CONNECT, of which it says nothing, has no target either.
            &Method::TRACE | &Method::CONNECT => page(StatusCode::METHOD_NOT_ALLOWED.as_u16()),
            _ => self.pass(client, request, busy).await.unwrap_or_else(|fault| page(fault.status())),
        };
        if self.group.settings.is_last_for_client(client.opened, self.group.now()) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Sends a request to a target, and waits for the head of its answer. Only where a connection of the pool turns out
    /// to be closed before a byte was written, another one is taken.
    async fn pass(
        &self,
        client: &Client,
        mut request: Request<Incoming>,
        busy: Busy,
    ) -> Result<Response<Answer>, Fault> {
        let (target, address) = self.group.choose(self.id).ok_or(Fault::NoTarget)?;
        fields::forward(&mut request, client.address, self.address);
        loop {
            let (ready, pooled) = match self.pool.take(target, address) {
                Some(ready) => (ready, true),
                None => (self.pool.connect(target, address).await?, false),
            };
            let link = ready.link.clone();
            let before = link.traffic.written();
            // From here on whoever drops this, a client that goes too, ends the connection to the target.
            let mut exchange = Exchange::new(ready, self.pool.clone(), self.group.clone());
            let Some(ready) = exchange.ready() else { return Err(Fault::Closed) };
            match ready.sender.try_send_request(request).await {
                Ok(response) => return head(response, exchange, busy),
                Err(mut failure) => {
                    let written = link.traffic.written().saturating_sub(before);
                    match failure.take_message() {
                        Some(unsent) if pooled && Fault::Closed.is_retried(written) => request = unsent,
                        _ => return Err(link.fault(failure.error())),
                    }
                }
            }
        }
    }
}

/// What the client gets of an answer whose head has come.
fn head(response: Response<Incoming>, exchange: Exchange, busy: Busy) -> Result<Response<Answer>, Fault> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::Malformed); // nobody has asked for it: `Upgrade` is not passed on
    }
    let mut response = response.map(|body| Answer::passing(body, exchange, busy));
    *response.version_mut() = Version::HTTP_11;
    fields::strip(response.headers_mut());
    Ok(response)
}
