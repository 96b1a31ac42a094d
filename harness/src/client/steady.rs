//! A load that is an open loop: requests are due at a steady rate, whatever becomes of those before them, so that a
//! target that stalls is not spared.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, Ask, Client, Connection, Outcome, Route};
use crate::timeline::{Event, Role};

/// Requests under way at most: beyond that none is sent, and nothing is judged.
const MOST: usize = 2_000;

/// A load that is on.
pub struct Steady {
    stop: CancellationToken,
    driver: AbortOnDropHandle<JoinSet<()>>,
    seen: Arc<Seen>,
}

/// What has become of it so far, for the eye.
#[derive(Default)]
pub struct Seen {
    /// Requests that came to their end with a response below 400.
    pub served: AtomicU64,
    /// Those that did not.
    pub missed: AtomicU64,
    /// The time that the latest response took, in microseconds.
    pub latest_us: AtomicU64,
    /// Instances that have answered.
    instances: Mutex<BTreeSet<String>>,
}

/// What is asked, and how.
#[derive(Clone)]
pub struct Asking {
    /// Where.
    pub route: Route,
    /// In turn.
    pub asks: Vec<Ask>,
    /// Requests a second.
    pub rate: f64,
    /// The share that is asked on connections that are kept, from 0 to 1; each other has a connection of its own.
    pub kept: f64,
}

struct Shared {
    client: Client,
    asking: Asking,
    /// Connections that have answered and wait.
    idle: Mutex<Vec<Connection>>,
    seen: Arc<Seen>,
}

async fn drive(shared: Arc<Shared>, stop: CancellationToken) -> JoinSet<()> {
    let mut under_way = JoinSet::new();
    let (began, mut held_back) = (Instant::now(), false);
    for number in 0u32.. {
        let due = began + Duration::from_secs_f64(f64::from(number) / shared.asking.rate);
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = stop.cancelled() => break,
        }
        while under_way.try_join_next().is_some() {}
        if under_way.len() < MOST {
            under_way.spawn(one(shared.clone(), number, due));
        } else if !std::mem::replace(&mut held_back, true) {
            let why = format!("{MOST} requests were under way, and no more were sent");
            shared.client.recorder.record(Event::Unconfirmed { what: "the load goes on".to_owned(), why });
        }
    }
    under_way
}

async fn one(shared: Arc<Shared>, number: u32, due: Instant) {
    let Asking { route, asks, kept, .. } = &shared.asking;
    let kept = ((f64::from(number) + 1.0) * kept).floor() > (f64::from(number) * kept).floor();
    let role = if kept { Role::KeepAlive } else { Role::Storm };
    let ask = asks[number as usize % asks.len()].clone().with_role(role).due(due);
    let (began, waiting) = (Instant::now(), kept.then(|| shared.waiting()).flatten());
    let connection = match waiting {
        Some(connection) => Ok(connection),
        None => shared.client.connect_by(route, role).await,
    };
    match connection {
        Ok(mut connection) => {
            let answer = connection.ask(ask).await;
            shared.seen.note(&answer, began);
            if kept && answer.outcome == Outcome::Answered && !answer.close {
                shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
        }
        Err(_) => drop(shared.seen.missed.fetch_add(1, Ordering::Relaxed)), // on the timeline, with the reason
    }
}

impl Shared {
    /// A connection that waits and has not been closed meanwhile, as far as is known here: as a pool takes one.
    fn waiting(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.ending().is_none());
        // The one that has waited longest: so all stay in use.
        (!idle.is_empty()).then(|| idle.remove(0))
    }
}

impl Seen {
    /// Whether an instance has answered somebody.
    pub fn has_answered(&self, instance: &str) -> bool {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).contains(instance)
    }

    fn note(&self, answer: &Answer, began: Instant) {
        match answer.status {
            Some(..400) if answer.outcome == Outcome::Answered => {
                if let Some(instance) = &answer.instance {
                    let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
                    if !instances.contains(instance) {
                        instances.insert(instance.clone());
                    }
                }
                self.served.fetch_add(1, Ordering::Relaxed);
                self.latest_us.store(began.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
            _ => drop(self.missed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl Steady {
    /// Starts it.
    pub fn start(client: &Client, asking: Asking) -> Self {
        let (stop, seen) = (CancellationToken::new(), Arc::<Seen>::default());
        let shared = Shared { client: client.clone(), asking, idle: Mutex::default(), seen: seen.clone() };
        let driver = tokio::spawn(drive(Arc::new(shared), stop.clone()));
        Self { stop, driver: AbortOnDropHandle::new(driver), seen }
    }

    /// What has become of it so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Sends no more, and waits for the end of what is under way.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Ok(mut under_way) = self.driver.await {
            while under_way.join_next().await.is_some() {}
        }
    }
}
