//! What a server does with a steady load while nobody stops it: a rate limiter, or requests lost without any signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::{Ask, Connection, Outcome};
use crate::scenario::Target;
use crate::timeline::{Break, Role};

/// Clients that ask at once.
const CLIENTS: usize = 8;
/// Longest wait for one answer.
const ONE: Duration = Duration::from_secs(3);
/// How long they ask.
const LASTS: Duration = Duration::from_secs(1);
/// How long a server that answers 429 is watched for answering otherwise again.
const RECOVERS: Duration = Duration::from_secs(4);
/// Pause between two looks at that.
const LOOK: Duration = Duration::from_millis(250);
/// Of the rate that a limiter lets through, what is asked for.
const BELOW: f64 = 0.5;

/// What came of it.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Peace {
    /// Requests that were written.
    pub asked: u64,
    /// Those without a complete response.
    pub lost: u64,
    /// Those with another status than is due, and no 429.
    pub other: u64,
    /// Where 429 came: after how many answers.
    pub limited_after: Option<u64>,
    /// The rate that a limiter lets through for certain, in requests a second.
    pub rate: Option<f64>,
}

#[derive(Default)]
struct Count {
    asked: AtomicU64,
    answered: AtomicU64,
    lost: AtomicU64,
    other: AtomicU64,
    limited: AtomicU64,
}

impl Peace {
    /// Plays it: on connections that are kept, where the server keeps them.
    pub async fn watch(target: &Arc<Target>, ask: &Ask, due: Option<u16>, keep_alive: bool) -> Self {
        let (count, began) = (Arc::new(Count::default()), Instant::now());
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(client(target.clone(), ask.clone(), (due, keep_alive), count.clone(), began + LASTS));
        }
        while clients.join_next().await.is_some() {}
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let limited = of(&count.limited) > 0;
        let mut peace = Self {
            asked: of(&count.asked),
            lost: of(&count.lost),
            other: of(&count.other),
            limited_after: limited.then(|| of(&count.answered)),
            rate: None,
        };
        if limited && recovers(target, ask).await {
            peace.rate = Some(BELOW * of(&count.answered) as f64 / began.elapsed().as_secs_f64());
        }
        peace
    }

    /// Requests a second that a rate limiter lets through for certain, where there is one.
    pub fn limit(&self) -> Option<f64> {
        self.limited_after.map(|_| self.rate.unwrap_or(0.0))
    }

    /// The share of the requests that came to nothing although nobody stopped the server.
    pub fn loses(&self) -> f64 {
        (self.lost + self.other) as f64 / self.asked.max(1) as f64
    }
}

async fn client(
    target: Arc<Target>,
    ask: Ask,
    (due, keep_alive): (Option<u16>, bool),
    count: Arc<Count>,
    until: Instant,
) {
    let add = |counter: &AtomicU64| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let mut open: Option<Connection> = None;
    while Instant::now() < until {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => match target.try_connect(Role::Warmup).await {
                Ok(connection) => connection,
                Err(_) => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            },
        };
        let answer = connection.ask(ask.clone().patience(ONE)).await;
        if answer.outcome != Outcome::Unsent {
            add(&count.asked);
        }
        match (answer.outcome, answer.status) {
            (Outcome::Answered, Some(429)) if due != Some(429) => add(&count.limited),
            (Outcome::Answered, status) if due.is_none() || status == due => add(&count.answered),
            (Outcome::Answered, _) => add(&count.other),
            // A burst may be more than its accept queue holds: then the kernel lets clients wait.
            (Outcome::Lost(Break::TimedOut) | Outcome::Unsent, _) => {}
            (Outcome::Lost(_), _) => add(&count.lost),
        }
        open = Some(connection).filter(|_| keep_alive && answer.outcome == Outcome::Answered && !answer.close);
    }
}

async fn recovers(target: &Target, ask: &Ask) -> bool {
    let until = Instant::now() + RECOVERS;
    while Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        if let Ok(mut connection) = target.try_connect(Role::Warmup).await {
            let answer = connection.ask(ask.clone()).await;
            if answer.outcome == Outcome::Answered && answer.status != Some(429) {
                return true;
            }
        }
    }
    false
}
