//! Processes: built, started, signalled, watched, and none left behind.

mod build;
mod disposition;
mod groups;
pub mod guardian;
mod lines;
mod listeners;
mod ports;
mod sabotage;
mod sockets;
mod spawn;
mod starved;
mod tree;

pub use build::{BuildError, build};
pub use disposition::Disposition;
pub use groups::kill_all;
pub use lines::Splitter;
pub use listeners::holders;
pub use ports::{free_port, says_taken};
pub use sockets::{Watch, clients_waiting, half_open, listener_inode, server_sides, watch_listener};
pub use spawn::{Addressee, Exit, Launch, Listening, Output, START_TIMEOUT, Spawned, StartError, start};
pub(crate) use starved::waited;
pub use tree::{Listeners, Tree, command_line, see};

/// Lets this process and its children open as many files as the system allows: every connection is one.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Makes this process the parent of whatever a server leaves behind: a daemon that has left its group, and written
/// over its environment, is still found. prctl(2), PR_SET_CHILD_SUBREAPER.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_child_subreaper(true);
}
