//! A process that does not end when nothing is going on ends no sooner when something is: that is waited for once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// For so long the process with nothing to do has to have gone on: as long as any rule allows the connections of
/// others to hold theirs. It may still end; what was not waited for is then played again.
const PRESUMED: Duration = Duration::from_secs(8);
/// For so long a process is waited for all the same.
const AT_LEAST: Duration = Duration::from_secs(2);

/// How long the runs against one server wait for its end.
#[derive(Debug, Clone)]
pub struct Patience {
    presumed: Duration,
    at_least: Duration,
    idle: Arc<watch::Sender<Idle>>,
    ran_out: Arc<AtomicBool>,
}

/// What is known of the process that has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    NotSignalled,
    Signalled(Instant),
    Ended,
    GoesOn,
}

impl Default for Patience {
    fn default() -> Self {
        let idle = Arc::new(watch::Sender::new(Idle::NotSignalled));
        Self { presumed: PRESUMED, at_least: AT_LEAST, idle, ran_out: Arc::default() }
    }
}

impl Patience {
    /// The same for one more run.
    pub fn of_another_run(&self) -> Self {
        Self { ran_out: Arc::default(), ..self.clone() }
    }

    /// The process with nothing to do is signalled.
    pub fn idle_signalled(&self) {
        self.idle.send_replace(Idle::Signalled(Instant::now()));
    }

    /// Whether the process with nothing to do has ended, in all the time that it has.
    pub fn idle_ended(&self, ended: bool) {
        self.idle.send_replace(if ended { Idle::Ended } else { Idle::GoesOn });
    }

    /// Whether the process with nothing to do ends after all.
    pub fn idle_ends(&self) -> bool {
        *self.idle.borrow() == Idle::Ended
    }

    /// Whether this run has waited for an end no longer.
    pub fn has_run_out(&self) -> bool {
        self.ran_out.load(Ordering::Relaxed)
    }

    /// Waits until there is no use in waiting any more.
    pub async fn runs_out(&self) {
        tokio::time::sleep(self.at_least).await;
        let mut idle = self.idle.subscribe();
        loop {
            let known = *idle.borrow_and_update();
            let changed = match known {
                Idle::GoesOn => break,
                Idle::Signalled(at) => tokio::time::timeout_at(at + self.presumed, idle.changed()).await,
                Idle::NotSignalled | Idle::Ended => Ok(idle.changed().await),
            };
            match changed {
                Err(_) => break,
                Ok(Err(_)) => std::future::pending().await,
                Ok(Ok(())) => {}
            }
        }
        self.ran_out.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough to show that something never comes.
    const NEVER: Duration = Duration::from_millis(300);

    fn patience(presumed: Duration) -> Patience {
        Patience { presumed, at_least: Duration::ZERO, ..Patience::default() }
    }

    async fn runs_out(patience: &Patience) -> bool {
        tokio::time::timeout(NEVER, patience.runs_out()).await.is_ok()
    }

    #[tokio::test]
    async fn it_runs_out_where_the_idle_process_goes_on_and_never_where_it_ends() {
        let patience = patience(Duration::ZERO);
        assert!(!runs_out(&patience).await, "nothing is known");
        assert!(!patience.has_run_out());
        patience.idle_signalled();
        let another = patience.of_another_run();
        assert!(runs_out(&patience).await && patience.has_run_out());
        assert!(!another.has_run_out(), "that is another run's");
        patience.idle_ended(false);
        assert!(runs_out(&another).await);
        patience.idle_ended(true);
        assert!(!runs_out(&patience.of_another_run()).await);
        assert!(patience.idle_ends());
    }

    #[tokio::test]
    async fn the_idle_process_has_time_and_what_is_learnt_meanwhile_counts() {
        let patience = patience(Duration::from_secs(600));
        patience.idle_signalled();
        assert!(!runs_out(&patience).await, "it may still end");
        let (waiting, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(60), patience.runs_out()), async {
            tokio::task::yield_now().await;
            patience.idle_ended(false);
        });
        assert!(waiting.is_ok());
    }
}
