//! Carries packets from either end to the other, each after the same time, and so in their order.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::SyncDevice;

/// Longest packet: more than the device's MTU.
const MAX_PACKET: usize = 4096;
/// Packets taken from one end before the other has its turn.
const BATCH: usize = 64;

/// A packet on its way.
struct Packet {
    due: Instant,
    /// Which end it goes to.
    to: usize,
    bytes: Vec<u8>,
}

/// A thread that carries packets until this is dropped.
pub struct Forwarder {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    latest_us: Arc<AtomicU64>,
}

impl Forwarder {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no thread or no descriptor to be had.
    pub fn start(ends: [SyncDevice; 2], delay: Duration) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let latest_us = Arc::new(AtomicU64::new(0));
        let latest = latest_us.clone();
        let forward = move || {
            // Fails only where a descriptor is not one; then nothing arrives any more, and the run says so.
            let _ = forward(&ends, &stopped, delay, &latest);
        };
        let thread = std::thread::Builder::new().name("link".to_owned()).spawn(forward)?;
        Ok(Self { stop: Some(stop), thread: Some(thread), latest_us })
    }

    /// How late a packet was delivered, at most.
    pub fn latest(&self) -> Duration {
        Duration::from_micros(self.latest_us.load(Ordering::Relaxed))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(ends: &[SyncDevice; 2], stopped: &PipeReader, delay: Duration, latest_us: &AtomicU64) -> nix::Result<()> {
    // One queue for both directions: the delay is the same, so what came first is due first.
    let mut held: VecDeque<Packet> = VecDeque::new();
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let wait = held.front().map(|packet| packet.due.saturating_duration_since(Instant::now()));
        let mut watched =
            [ends[0].as_fd(), ends[1].as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut watched, wait.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error),
        }
        let [first, second, stop] = watched.map(|fd| fd.any().unwrap_or(false));
        if stop {
            return Ok(());
        }
        for (from, ready) in [first, second].into_iter().enumerate() {
            for _ in 0..if ready { BATCH } else { 0 } {
                let Ok(length) = ends[from].recv(&mut buffer) else { break };
                held.push_back(Packet { due: Instant::now() + delay, to: 1 - from, bytes: buffer[..length].to_vec() });
            }
        }
        let now = Instant::now();
        while held.front().is_some_and(|packet| packet.due <= now)
            && let Some(packet) = held.pop_front()
        {
            let late = now.duration_since(packet.due).as_micros() as u64;
            latest_us.fetch_max(late, Ordering::Relaxed);
            // What the other end cannot take is lost, as on any link: TCP sends it again.
            let _ = ends[packet.to].send(&packet.bytes);
        }
    }
}
