//! A model with a clock: one mutex around it, and one task that wakes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::Model;

/// A model that runs by the clock.
pub struct Driven<M: Model + Send + 'static> {
    model: Mutex<M>,
    clock: Clock,
    woken: Notify,
    /// Does what the model says. Called under the lock, so that all hear it in order.
    carry_out: Box<dyn Fn(M::Output) + Send + Sync>,
}

/// The time of the models of a run, and the end of all that goes on for them.
#[derive(Clone)]
pub struct Clock {
    begun: Instant,
    stop: CancellationToken,
}

impl Clock {
    /// A clock that begins now; what goes on by it ends with the token.
    pub fn new(stop: CancellationToken) -> Self {
        Self { begun: Instant::now(), stop }
    }

    /// The time of the models.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Runs a task until it ends, or all does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

impl<M: Model + Send + 'static> Driven<M> {
    /// Runs a model. What it says is carried out by a function that must be quick, and must not speak to the same model.
    pub fn start(
        clock: &Clock,
        model: impl FnOnce(Duration) -> M,
        carry_out: impl FnOnce(std::sync::Weak<Self>) -> Box<dyn Fn(M::Output) + Send + Sync>,
    ) -> Arc<Self> {
        let clock = clock.clone();
        let model = Mutex::new(model(clock.now()));
        let driven =
            Arc::new_cyclic(|own| Self { model, clock, woken: Notify::new(), carry_out: carry_out(own.clone()) });
        let own = driven.clone();
        driven.clock.spawn(async move { own.drive().await });
        driven
    }

    /// Tells the model what happens.
    pub fn apply(&self, input: M::Input) {
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        model.apply(self.clock.now(), input).into_iter().for_each(&self.carry_out);
        self.woken.notify_one();
    }

    /// Wakes the model when it wants to be woken.
    async fn drive(&self) {
        loop {
            let next = self.model.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next.map(|at| at.saturating_sub(self.clock.now())) {
                Some(pause) => tokio::select! {
                    () = tokio::time::sleep(pause) => {
                        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
                        model.advance(self.clock.now()).into_iter().for_each(&self.carry_out);
                    }
                    () = self.woken.notified() => {}
                },
                None => self.woken.notified().await,
            }
        }
    }
}
