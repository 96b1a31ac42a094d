//! Models of what stands between clients and servers, for machines that have none of it: pure functions of state, time
//! and input. No clock, no socket, no randomness: whoever drives a model tells it the time and brings the jitter as
//! data, so that a run can be repeated.

pub mod kubelet;
pub mod service;
pub mod target_group;

use std::time::Duration;

/// A model that is told what happens, and says what follows. Times are durations since the start of a run; one before the
/// last that it has seen counts as that one.
pub trait Model {
    /// What happens.
    type Input;
    /// What follows.
    type Output;
    /// Takes what happens at this time, and says what follows up to now.
    #[must_use]
    fn apply(&mut self, now: Duration, input: Self::Input) -> Vec<Self::Output>;
    /// Says what has come up to now, as [`apply`](Self::apply) does.
    #[must_use]
    fn advance(&mut self, now: Duration) -> Vec<Self::Output>;
    /// When [`advance`](Self::advance) has something to do or to say next.
    fn next(&self) -> Option<Duration>;
}
