//! What is under test, and how to speak to it: a server that keeps the contract, or one that nobody here knows.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::catalog::{Feature, Server};
use crate::client::Ask;
use crate::link::Place;
use crate::process::Launch;
use crate::timeline::Role;

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
    pub params: Vec<(String, f64)>,
    /// How to speak to it.
    pub manner: Manner,
}

/// How to speak to a server.
#[derive(Debug, Clone)]
pub enum Manner {
    /// It announces itself on standard output and has the routes of the contract.
    Contract,
    /// It is somebody's.
    Stranger(Stranger),
}

/// What is known of somebody's server.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// A path that it answers.
    pub path: String,
    /// A path that takes its time, and how long.
    pub slow: Option<(String, Duration)>,
    /// The path of its readiness probe.
    pub ready: Option<String>,
    /// The signal that stops it.
    pub stop: Signal,
    /// The port that it is asked to listen on: in the place of `{port}` in its command, and in the variable PORT.
    pub port: u16,
    /// Whether it can be asked for another one, as far as is known.
    pub takes_port: bool,
    /// How long it may take to start.
    pub start_within: Duration,
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
                place: Place::HERE,
            },
            features: server.spec.features.iter().copied().collect(),
            promises_contract: server.promises_contract(),
            params: Vec::new(),
            manner: Manner::Contract,
        }
    }

    /// Whether it can do this.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// Whether it can be asked to listen on another port.
    pub fn takes_port(&self) -> bool {
        matches!(&self.manner, Manner::Stranger(Stranger { takes_port: true, .. }))
    }

    /// The signal that stops it.
    pub fn stop_signal(&self) -> Signal {
        match &self.manner {
            Manner::Contract => Signal::SIGTERM,
            Manner::Stranger(stranger) => stranger.stop,
        }
    }

    /// The path of its readiness probe.
    pub fn ready_path(&self) -> &str {
        match &self.manner {
            Manner::Stranger(Stranger { ready: Some(path), .. }) => path,
            _ => "/health/ready",
        }
    }

    /// A request that is answered at once.
    pub fn ask(&self, role: Role) -> Ask {
        match &self.manner {
            Manner::Contract => Ask::get("/", role),
            Manner::Stranger(stranger) => Ask::get(&stranger.path, role),
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
            Manner::Stranger(Stranger { slow: Some((path, _)), .. }) => Ask::get(path, role),
            _ => Ask::get(format!("/slow?delay={seconds:.2}"), role),
        }
    }
}
