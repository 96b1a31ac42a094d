//! The wire: takes packets from one end, holds each for as long as it is on its way, and puts it in at the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::network::Device;

/// Forwards until it is dropped.
pub struct Forwarder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Joins two ends. Each packet is on its way for `delay`.
    pub fn start(ends: [Device; 2], delay: Duration) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("link".to_owned()).spawn(move || forward(&ends, delay, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(target_os = "linux")]
fn forward(ends: &[Device; 2], delay: Duration, stopped: &AtomicBool) {
    use std::collections::VecDeque;
    use std::os::fd::AsFd;
    use std::time::Instant;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    /// Longest wait, after which it looks whether it is to stop.
    const LOOK: Duration = Duration::from_millis(50);
    /// Packets taken from one end before the other has its turn.
    const BATCH: usize = 64;

    let mut under_way: VecDeque<(Instant, usize, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; 64 << 10];
    while !stopped.load(Ordering::Relaxed) {
        let now = Instant::now();
        let next = under_way.front().map_or(LOOK, |(due, _, _)| due.saturating_duration_since(now).min(LOOK));
        let mut ready = [0, 1].map(|end: usize| PollFd::new(ends[end].as_fd(), PollFlags::POLLIN));
        // In whole milliseconds, rounded up: early it would only spin.
        let timeout = PollTimeout::try_from(next.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut ready, timeout);
        for end in [0, 1] {
            for _ in 0..BATCH {
                let Ok(length) = ends[end].recv(&mut buffer) else { break };
                under_way.push_back((Instant::now() + delay, 1 - end, buffer[..length].to_vec()));
            }
        }
        let now = Instant::now();
        while let Some((_, end, packet)) = under_way.pop_front_if(|(due, _, _)| *due <= now) {
            let _ = ends[end].send(&packet); // what finds no room is lost, as on any wire
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn forward(_: &[Device; 2], _: Duration, _: &AtomicBool) {}
