//! Load: many clients at once, each request accounted for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Ask, Client, Outcome};
use crate::timeline::{NotOpened, Role};

/// Pause of a client that was refused: nobody listens, and a tight loop would only heat the machine.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// Clients at work.
pub struct Load {
    clients: JoinSet<()>,
    stop: CancellationToken,
    answered: Arc<AtomicU64>,
}

/// Starts clients that each ask back to back on one connection, and open another when theirs has ended.
pub fn back_to_back(client: &Client, address: SocketAddr, role: Role, clients: usize) -> Load {
    start(client, address, role, clients, false)
}

/// Starts clients that each connect for every request.
pub fn connect_storm(client: &Client, address: SocketAddr, role: Role, clients: usize) -> Load {
    start(client, address, role, clients, true)
}

fn start(client: &Client, address: SocketAddr, role: Role, clients: usize, one_each: bool) -> Load {
    let mut load = Load { clients: JoinSet::new(), stop: CancellationToken::new(), answered: Arc::default() };
    for _ in 0..clients {
        let (client, stop, answered) = (client.clone(), load.stop.clone(), load.answered.clone());
        load.clients.spawn(async move {
            while !stop.is_cancelled() {
                let mut connection = match client.connect(address, role).await {
                    Ok(connection) => connection,
                    Err(NotOpened::Refused | NotOpened::TimedOut | NotOpened::Other) => {
                        tokio::time::sleep(REFUSED_PAUSE).await;
                        continue;
                    }
                };
                while !stop.is_cancelled() {
                    let answer = connection.ask(Ask::get("/", role)).await;
                    if answer.outcome == Outcome::Answered {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    if one_each || answer.close || answer.outcome != Outcome::Answered {
                        break;
                    }
                }
            }
        });
    }
    load
}

impl Load {
    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets every client finish what it is doing.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
    }
}
