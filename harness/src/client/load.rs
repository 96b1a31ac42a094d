//! Load: many clients at once, each request accounted for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Ask, Client, Outcome};
use crate::recorder::Recorder;
use crate::timeline::{Event, NotOpened};

/// Pause of a client that was refused: nobody listens, and a tight loop would only heat the machine.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// So much a load asks as fast as it can. All of it is recorded, and what happens around a signal is over by then.
const AT_FULL_PACE: u64 = 20_000;
/// So much it asks in a second from then on, which keeps the timeline of a server that never ends in bounds.
const EASED_PER_SECOND: u64 = 500;

/// Time for a load to get going.
const WARM_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(5);

/// A load did not get going.
#[derive(Debug, thiserror::Error)]
#[error("only {answered} of {answers} answers within {} s", WARM_WITHIN.as_secs())]
pub struct NotWarm {
    answered: u64,
    answers: u64,
}

/// A rate limiter's answer: no client's request was served.
const LIMITED: u16 = 429;

/// Clients at work.
pub struct Load {
    clients: JoinSet<()>,
    stop: CancellationToken,
    answered: Arc<AtomicU64>,
}

/// Keeps the pace of all clients of a load.
struct Pace {
    asked: AtomicU64,
    clients: u64,
    recorder: Recorder,
}

impl Pace {
    /// Waits for the turn of a client to ask once more.
    async fn turn(&self) {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked < AT_FULL_PACE || self.recorder.discards() {
            return;
        }
        if asked == AT_FULL_PACE {
            self.recorder.record(Event::Eased { asked, per_second: EASED_PER_SECOND });
        }
        tokio::time::sleep(Duration::from_secs(self.clients) / EASED_PER_SECOND as u32).await;
    }
}

/// Starts clients that each ask back to back, with a pause between two requests, on one connection, and open another when
/// theirs has ended.
pub fn back_to_back(client: &Client, address: SocketAddr, ask: &Ask, clients: usize, pause: Duration) -> Load {
    start(client, address, ask, clients, pause, false)
}

/// Starts clients that each connect for every request, with a pause between two.
pub fn connect_storm(client: &Client, address: SocketAddr, ask: &Ask, clients: usize, pause: Duration) -> Load {
    start(client, address, ask, clients, pause, true)
}

fn start(client: &Client, address: SocketAddr, ask: &Ask, clients: usize, pause: Duration, one_each: bool) -> Load {
    let mut load = Load { clients: JoinSet::new(), stop: CancellationToken::new(), answered: Arc::default() };
    let pace = Pace { asked: AtomicU64::new(0), clients: clients as u64, recorder: client.recorder.clone() };
    let pace = Arc::new(pace);
    for number in 0..clients {
        // Clients that pause do not all ask at once.
        let first = pause.mul_f64(number as f64 / clients as f64);
        let (client, ask, pace) = (client.clone(), ask.clone(), pace.clone());
        let (stop, answered) = (load.stop.clone(), load.answered.clone());
        load.clients.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(first) => {}
                () = stop.cancelled() => {}
            }
            while !stop.is_cancelled() {
                let mut connection = match client.connect(address, ask.role()).await {
                    Ok(connection) => connection,
                    Err(NotOpened::Refused | NotOpened::TimedOut | NotOpened::Other) => {
                        tokio::time::sleep(REFUSED_PAUSE).await;
                        pace.turn().await;
                        continue;
                    }
                };
                // Whoever got in asks: a stop in the middle of a handshake leaves no connection without a request.
                loop {
                    let answer = connection.ask(ask.clone()).await;
                    if answer.outcome == Outcome::Answered && answer.status != Some(LIMITED) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    pace.turn().await;
                    if !pause.is_zero() {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = stop.cancelled() => {}
                        }
                    }
                    if one_each || answer.close || answer.outcome != Outcome::Answered || stop.is_cancelled() {
                        break;
                    }
                }
            }
        });
    }
    load
}

impl Load {
    /// Waits until so many requests have been answered.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn warm(&self, answers: u64) -> Result<(), NotWarm> {
        let deadline = Instant::now() + WARM_WITHIN;
        loop {
            let answered = self.answered.load(Ordering::Relaxed);
            match answered {
                enough if enough >= answers => return Ok(()),
                _ if Instant::now() > deadline => return Err(NotWarm { answered, answers }),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Requests answered so far, by other than a rate limiter.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets every client finish what it is doing.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
    }
}
