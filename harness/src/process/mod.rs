//! Processes: built, started, signalled, watched, and none left behind.

mod build;
mod groups;
pub mod guardian;
mod sockets;
mod spawn;
mod tree;

pub use build::{BuildError, build};
pub use groups::kill_all;
pub use sockets::{closed as listener_closed, server_sides};
pub use spawn::{Exit, Launch, Listening, Output, Spawned, StartError, start};
pub use tree::Tree;
