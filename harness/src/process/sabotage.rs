//! What the harness does to a server beside signals: nobody reads its output any more, and its listener breaks.

use std::io;

/// Leaves no room in the pipe behind a descriptor of a process, so that a write to it would wait.
///
/// # Errors
/// Where it is no pipe, or may not be opened.
#[cfg(target_os = "linux")]
pub fn fill_pipe(pid: i32, descriptor: i32) -> io::Result<()> {
    use std::fs::OpenOptions;
    use std::io::{ErrorKind, Write};
    use std::os::unix::fs::OpenOptionsExt;

    /// Large ones first: a pipe takes a small one where a large one finds no room.
    const BLOCKS: [usize; 2] = [4096, 1];
    // Opened by its name it is a description of its own: that of the server goes on to block.
    let path = format!("/proc/{pid}/fd/{descriptor}");
    let mut pipe = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    for block in BLOCKS {
        loop {
            match pipe.write(&vec![b'.'; block]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Breaks the listener on this port for good: accept(2) fails from now on.
///
/// # Errors
/// Where the process has none there, or its descriptors may not be had (ptrace(2), PTRACE_MODE_ATTACH).
#[cfg(target_os = "linux")]
pub fn break_listener(pid: i32, inode: u32) -> io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

    let socket = format!("socket:[{inode}]");
    let owner = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(owner, PidfdFlags::empty())?;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let is_it = std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == socket.as_str());
        if let (true, Some(number)) = (is_it, entry.file_name().to_str().and_then(|name| name.parse().ok())) {
            let listener = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
            return Ok(rustix::net::shutdown(listener, rustix::net::Shutdown::Both)?);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "it has no such socket"))
}

/// See the other one.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn fill_pipe(_: i32, _: i32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// See the other one.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn break_listener(_: i32, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
