//! Processes: built, started, signalled, watched, and none left behind.

mod build;
mod groups;
pub mod guardian;
mod listeners;
mod spawn;

pub use build::{BuildError, build};
pub use groups::kill_all;
pub use listeners::closed as listener_closed;
pub use spawn::{Exit, Launch, Spawned, StartError, start};
