//! The client: one object per connection, which never reconnects, and which knows how its connection ended.

mod arrivals;
mod expected;
mod http;
mod load;
mod raw;
mod route;
mod speaks;
mod steady;
mod wire;

pub use arrivals::{Arrivals, arrive};
pub use expected::{Expected, Framing};
pub use http::{Answer, Ask, Connection, Outcome, Payload, Pending};
pub use load::{Load, NotWarm, back_to_back, connect_storm};
pub use raw::Raw;
pub use route::{Route, Table};
pub use speaks::{Speaks, speaks};
pub use steady::{Asking, Seen, Steady};

use std::collections::BTreeMap;
use std::io::ErrorKind::{ConnectionRefused, ConnectionReset};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::link::Place;
use crate::recorder::Recorder;
use crate::timeline::{ConnectionId, Event, NotOpened, RequestId, Role};
use wire::Wire;

/// Longest wait for a connection. Longer than the second after which a dropped SYN is sent again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do where this program has no descriptor left.
pub const NO_DESCRIPTOR: &str = "drainspec itself has no file descriptor left, and every connection takes one: raise the limit with `ulimit -n 4096`";

/// Whether an error says that this process, or the system, has no descriptor left.
pub fn no_descriptor(error: &std::io::Error) -> bool {
    let codes = [nix::errno::Errno::EMFILE as i32, nix::errno::Errno::ENFILE as i32];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Opens connections and numbers them; cheap to clone.
#[derive(Clone)]
pub struct Client {
    recorder: Recorder,
    connections: Arc<AtomicU32>,
    requests: Arc<AtomicU32>,
    under_way: UnderWay,
    starved: Arc<AtomicBool>,
    place: Place,
}

/// Requests under way, by their connection: two servers may be asked from the same port.
type UnderWay = Arc<Mutex<BTreeMap<ConnectionId, (SocketAddr, u16, RequestId)>>>;

impl Client {
    /// A client that writes to this timeline.
    pub fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            connections: Arc::default(),
            requests: Arc::default(),
            under_way: Arc::default(),
            starved: Arc::default(),
            place: Place::HERE,
        }
    }

    /// The same client somewhere else.
    pub fn at(&self, place: &Place) -> Self {
        Self { place: place.clone(), ..self.clone() }
    }

    /// Opens a connection for HTTP.
    ///
    /// # Errors
    /// Tells refused from timed out; both are on the timeline already.
    pub async fn connect(&self, address: SocketAddr, role: Role) -> Result<Connection, NotOpened> {
        Connection::new(self.open(address, role, None).await?, self.clone()).await
    }

    /// Opens a connection for HTTP wherever this route leads. Where it leads nowhere nobody answers, and that is refused:
    /// so kube-proxy answers for a Service without endpoints.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_by(&self, route: &Route, role: Role) -> Result<Connection, NotOpened> {
        match route.next() {
            Some(address) => self.connect(address, role).await,
            None => {
                let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let begun_us = Some(self.recorder.micros(std::time::Instant::now()));
                self.recorder.record(Event::NotOpened { connection, role, why: NotOpened::Refused, begun_us });
                Err(NotOpened::Refused)
            }
        }
    }

    /// Opens a connection whose kernel buffers no more than about `receive_buffer` bytes.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_narrow(
        &self,
        address: SocketAddr,
        role: Role,
        receive_buffer: u32,
    ) -> Result<Connection, NotOpened> {
        Connection::new(self.open(address, role, Some(receive_buffer)).await?, self.clone()).await
    }

    /// Opens a connection for bytes.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_raw(&self, address: SocketAddr, role: Role) -> Result<Raw, NotOpened> {
        Ok(Raw::new(self.open(address, role, None).await?, self.clone()))
    }

    async fn open(&self, address: SocketAddr, role: Role, receive_buffer: Option<u32>) -> Result<Wire, NotOpened> {
        let connection: ConnectionId = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let begun_us = Some(self.recorder.micros(std::time::Instant::now()));
        let attempt = async {
            let make = || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let socket = self.place.within(make)?;
            if let Some(size) = receive_buffer {
                socket.set_recv_buffer_size(size)?; // before connecting, or the window has been offered already
            }
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        };
        let why = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(stream)) => {
                self.recorder.record(Event::Opened { connection, role, begun_us });
                return Ok(Wire::new(stream, address, connection, self.recorder.clone(), self.under_way.clone()));
            }
            // An RST that comes right after the handshake says the same: nothing was sent, and the client knows at once.
            Ok(Err(error)) if [ConnectionRefused, ConnectionReset].contains(&error.kind()) => NotOpened::Refused,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => NotOpened::TimedOut,
            Ok(Err(error)) => {
                if no_descriptor(&error) && !self.starved.swap(true, Ordering::Relaxed) {
                    // Nothing that is missing from now on is the server's doing.
                    let what = "drainspec can open connections".to_owned();
                    self.recorder.record(Event::Unconfirmed { what, why: NO_DESCRIPTOR.to_owned() });
                }
                NotOpened::Other
            }
            Err(_) => NotOpened::TimedOut,
        };
        self.recorder.record(Event::NotOpened { connection, role, why, begun_us });
        Err(why)
    }

    /// Whether a connection could not be opened because this program had no descriptor left.
    pub fn starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// Requests to this address of which a byte has been written and that have not ended, by the client's port.
    pub fn under_way(&self, address: SocketAddr) -> BTreeMap<u16, RequestId> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let there = under_way.values().filter(|(to, ..)| *to == address);
        there.map(|(_, port, request)| (*port, request.clone())).collect()
    }

    fn next_request(&self) -> RequestId {
        format!("r{}", self.requests.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
