//! An open loop: clients arrive at a pace of their own, whatever becomes of those before them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Ask, Client, Outcome};

/// Arrivals that nobody stops do so by themselves when there have been so many times the number that was asked for.
const ENOUGH: usize = 10;

/// Clients that arrive, one after the other, each with a connection of its own and one request.
pub struct Arrivals {
    shared: Arc<Shared>,
    driver: AbortOnDropHandle<JoinSet<()>>,
}

#[derive(Default)]
struct Shared {
    begun: AtomicUsize,
    /// How many arrive in all.
    last: AtomicUsize,
    answered: AtomicUsize,
    /// When each connection that was made was begun, and when it was there.
    opened: Mutex<Vec<(Instant, Instant)>>,
}

/// Lets clients arrive, `count` of them in `over`, until [`Arrivals::only`] says how many more.
pub fn arrive(client: &Client, address: SocketAddr, ask: &Ask, count: usize, over: Duration) -> Arrivals {
    let shared = Arc::new(Shared { last: (ENOUGH * count).into(), ..Shared::default() });
    let pause = over / count.max(1) as u32;
    let (theirs, client, ask) = (shared.clone(), client.clone(), ask.clone());
    let driver = tokio::spawn(async move {
        let mut clients = JoinSet::new();
        let mut next = Instant::now();
        while theirs.begun.load(Ordering::Relaxed) < theirs.last.load(Ordering::Relaxed) {
            theirs.begun.fetch_add(1, Ordering::Relaxed);
            clients.spawn(one(theirs.clone(), client.clone(), address, ask.clone()));
            next += pause;
            tokio::time::sleep_until(next).await;
        }
        clients
    });
    Arrivals { shared, driver: AbortOnDropHandle::new(driver) }
}

async fn one(shared: Arc<Shared>, client: Client, address: SocketAddr, ask: Ask) {
    let began = Instant::now();
    let Ok(mut connection) = client.connect(address, ask.role()).await else { return };
    shared.opened.lock().unwrap_or_else(PoisonError::into_inner).push((began, Instant::now()));
    if connection.ask(ask).await.outcome == Outcome::Answered {
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
}

impl Arrivals {
    /// Clients that have arrived.
    pub fn begun(&self) -> usize {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Clients that have their answer.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// From now on only so many more arrive.
    pub fn only(&self, more: usize) {
        self.shared.last.store(self.begun() + more, Ordering::Relaxed);
    }

    /// Connections that were begun before this moment and made after it.
    pub fn half_way_at(&self, moment: Instant) -> usize {
        let opened = self.shared.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().filter(|(began, opened)| *began < moment && *opened > moment).count()
    }

    /// Waits until every client is done.
    pub async fn done(&mut self) {
        if let Ok(mut clients) = (&mut self.driver).await {
            while clients.join_next().await.is_some() {}
        }
    }
}
