//! What is under test, and how to speak to it: a server that keeps the contract, or one that nobody here knows.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use super::Patience;
use crate::catalog::{Feature, Server};
use crate::client::{Ask, Expected, Framing, Payload};
use crate::process::{Addressee, Launch};
use crate::timeline::{Param, Role};

/// The path of the readiness probe, by the contract.
const READY: &str = "/health/ready";

/// What is under test.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name in timelines and results.
    pub name: String,
    /// How it is started.
    pub launch: Launch,
    /// What it can do.
    pub features: BTreeSet<Feature>,
    /// Whether breaking a contract rule is a failure for it.
    pub promises_contract: bool,
    /// Parameters that differ from the scenario's.
    pub params: Vec<(Param, f64)>,
    /// How to speak to it.
    pub manner: Manner,
    /// What was learnt of it, in words.
    pub learned: Vec<String>,
}

/// How to speak to a server.
#[derive(Debug, Clone)]
pub enum Manner {
    /// It announces itself on standard output and has the routes of the contract.
    Contract,
    /// It is somebody's.
    Stranger(Box<Stranger>),
}

/// What is known of somebody's server.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// What it answers at once.
    pub quick: Route,
    /// What takes its time.
    pub slow: Option<Route>,
    /// A response in pieces that has an end.
    pub finite: Option<Route>,
    /// A response in pieces that has none.
    pub endless: Option<Route>,
    /// What takes a body that is some time on its way.
    pub upload: Option<Route>,
    /// The path of its readiness probe.
    pub ready: Option<String>,
    /// Requests a second that it takes before it answers 429, where it has such a limit.
    pub rate: Option<f64>,
    /// Header fields of every request.
    pub headers: HeaderMap,
    /// The signal that stops it.
    pub stop: Signal,
    /// Who gets it.
    pub to: Addressee,
    /// Whether it has children, so that a signal to the whole group is something else than one to the leader.
    pub children: bool,
    /// Whether it takes the signal once it has started, as far as is known.
    pub takes_signal: bool,
    /// The port that it is asked to listen on, in the place of `{port}` in its command and in the variable PORT, or was
    /// found to.
    pub port: u16,
    /// Whether it can be asked for another one, as far as is known.
    pub takes_port: bool,
    /// How long it may take to start.
    pub start_within: Duration,
    /// From the signal to SIGKILL.
    pub grace: Duration,
    /// How long its lame-duck is said to last.
    pub lame_duck: Option<Duration>,
    /// Whether it ends by itself when it is stopped, as far as that is known: else nobody waits for that for long.
    pub ends: bool,
    /// All else that is played against it is over.
    pub over: CancellationToken,
    /// How long its end is waited for.
    pub patience: Patience,
}

/// A request to somebody's server.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its body.
    pub body: Option<Bytes>,
    /// What it gets when nobody stops the server, once that is known.
    pub normal: Option<Normal>,
}

/// What a request gets when nobody stops the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normal {
    /// The status of the response, and its length and content where they do not change.
    pub due: Expected,
    /// How the end of its body is told.
    pub framing: Framing,
    /// How long it takes: the median.
    pub takes: Duration,
}

impl Route {
    /// A GET of which nothing is known.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, normal: None }
    }

    /// How long it takes, as far as that is known.
    pub fn takes(&self) -> Duration {
        self.normal.map_or(Duration::ZERO, |normal| normal.takes)
    }
}

impl Stranger {
    /// A request on one of its routes.
    pub fn ask(&self, route: &Route, role: Role) -> Ask {
        let ask = Ask::get(&route.path, role).method(route.method.clone()).headers(&self.headers);
        let ask = match &route.body {
            Some(body) => ask.payload(Payload::Whole(body.clone())),
            None => ask,
        };
        ask.expect(route.normal.map_or(Expected::default(), |normal| normal.due))
    }

    /// An upload on one of its routes, with this pause between its pieces.
    pub fn ask_upload(&self, route: &Route, pause: Duration, role: Role) -> Ask {
        self.ask(route, role).payload(upload(pause))
    }
}

/// A body in fifteen pieces, with this pause before each.
fn upload(pause: Duration) -> Payload {
    let pieces = (0..15u8).map(|piece| Bytes::from(vec![b'a' + piece; 16 << 10])).collect();
    Payload::Dripped { pieces, pause }
}

impl Subject {
    /// A server of the catalogue.
    pub fn of(server: &Server) -> Self {
        Self {
            name: server.name.clone(),
            launch: Launch {
                command: server.spec.run.clone(),
                folder: server.folder.clone(),
                env: server.spec.env.clone(),
                ..Launch::default()
            },
            features: server.spec.features.iter().copied().collect(),
            promises_contract: server.promises_contract(),
            params: Vec::new(),
            manner: Manner::Contract,
            learned: Vec::new(),
        }
    }

    /// Whether it can do this.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.iter().any(|own| own.includes(feature))
    }

    /// Whether it can be asked to listen on another port.
    pub fn takes_port(&self) -> bool {
        matches!(&self.manner, Manner::Stranger(stranger) if stranger.takes_port)
    }

    /// The signal that stops it.
    pub fn stop_signal(&self) -> Signal {
        match &self.manner {
            Manner::Contract => Signal::SIGTERM,
            Manner::Stranger(stranger) => stranger.stop,
        }
    }

    /// How long its end is waited for, where that is not certain to come.
    pub fn patience(&self) -> Option<&Patience> {
        match &self.manner {
            Manner::Contract => None,
            Manner::Stranger(stranger) => Some(&stranger.patience),
        }
    }

    /// Who gets the signal that stops it.
    pub fn addressee(&self) -> Addressee {
        match &self.manner {
            Manner::Contract => Addressee::Leader,
            Manner::Stranger(stranger) => stranger.to,
        }
    }

    /// The path of its readiness probe.
    pub fn ready_path(&self) -> &str {
        match &self.manner {
            Manner::Contract => READY,
            Manner::Stranger(stranger) => stranger.ready.as_deref().unwrap_or(READY),
        }
    }

    /// A readiness probe.
    pub fn ask_ready(&self) -> Ask {
        let ask = Ask::get(self.ready_path(), Role::Ready);
        match &self.manner {
            Manner::Contract => ask,
            Manner::Stranger(stranger) => ask.headers(&stranger.headers),
        }
    }

    /// Whether a probe with this status says that the server is not ready.
    pub fn is_unready(&self, status: u16) -> bool {
        match &self.manner {
            Manner::Contract => status == 503,
            Manner::Stranger(_) => !(200..400).contains(&status), // as a kubelet sees it
        }
    }

    /// Waits until all else that is played against it is over; for ever, where it is not known when that will be.
    pub async fn all_else_is_over(&self) {
        match &self.manner {
            Manner::Contract => std::future::pending().await,
            Manner::Stranger(stranger) => stranger.over.cancelled().await,
        }
    }

    /// Requests a second that a rate limiter lets through, where it has one.
    pub fn rate(&self) -> Option<f64> {
        match &self.manner {
            Manner::Contract => None,
            Manner::Stranger(stranger) => stranger.rate,
        }
    }

    /// A request that is answered at once.
    pub fn ask(&self, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => Ask::get("/", role),
            Manner::Stranger(stranger) => stranger.ask(&stranger.quick, role),
        }
    }

    /// A request that many clients ask at once: they keep a stranger busy with whatever it answers, and our own
    /// servers with something that takes a moment.
    pub fn ask_busy(&self, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => self.ask_slow(0.1, role),
            Manner::Stranger(_) => self.ask(role),
        }
    }

    /// A request that takes about so many seconds; what a stranger's slow path takes is its own affair.
    pub fn ask_slow(&self, seconds: f64, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => Ask::get(format!("/slow?delay={seconds:.2}"), role),
            Manner::Stranger(stranger) => stranger.ask(stranger.slow.as_ref().unwrap_or(&stranger.quick), role),
        }
    }

    /// Whether a request takes as long as it is asked to.
    pub fn has_routes(&self) -> bool {
        matches!(self.manner, Manner::Contract)
    }

    /// A request whose response comes in pieces and has an end.
    pub fn ask_finite(&self, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => {
                let length: usize = (0..10).map(|number| format!("chunk {number}\n").len()).sum();
                Ask::get("/stream?chunks=10&interval=0.15", role).expect_bytes(length as u64)
            }
            Manner::Stranger(stranger) => stranger.ask(stranger.finite.as_ref().unwrap_or(&stranger.quick), role),
        }
    }

    /// A request whose response comes in pieces for about so many seconds; what a stranger's takes is its own affair.
    pub fn ask_long_stream(&self, seconds: f64, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => {
                let length: usize = (0..10).map(|number| format!("chunk {number}\n").len()).sum();
                let interval = seconds / 9.0;
                Ask::get(format!("/stream?chunks=10&interval={interval:.2}"), role).expect_bytes(length as u64)
            }
            Manner::Stranger(_) => self.ask_finite(role),
        }
    }

    /// A request whose response comes in pieces and has no end of its own.
    pub fn ask_endless(&self, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => Ask::get("/events", role),
            Manner::Stranger(stranger) => stranger.ask(stranger.endless.as_ref().unwrap_or(&stranger.quick), role),
        }
    }

    /// A request with this body.
    pub fn ask_posted(&self, body: &'static str, role: Role) -> Ask {
        let payload = Payload::Whole(body.into());
        match &self.manner {
            Manner::Contract => Ask::post("/echo", role, payload),
            Manner::Stranger(stranger) => {
                stranger.ask(stranger.upload.as_ref().unwrap_or(&stranger.quick), role).payload(payload)
            }
        }
    }

    /// A request with a body of fifteen pieces, with this pause before each.
    pub fn ask_upload(&self, pause: Duration, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => {
                let payload = upload(pause);
                let length = payload.length().unwrap_or_default() as u64;
                Ask::post("/echo", role, payload).expect_bytes(length)
            }
            Manner::Stranger(stranger) => {
                stranger.ask_upload(stranger.upload.as_ref().unwrap_or(&stranger.quick), pause, role)
            }
        }
    }
}
