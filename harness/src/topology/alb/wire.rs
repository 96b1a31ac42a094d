//! The stream beneath HTTP, on both sides: it counts what is written, and knows when anything last moved.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A TCP stream that counts.
pub struct Wire {
    stream: TcpStream,
    traffic: Arc<Traffic>,
}

/// What a wire has seen; outlives it.
pub struct Traffic {
    begun: Instant,
    written: AtomicU64,
    /// When a byte last came or went, in microseconds since the beginning.
    moved_us: AtomicU64,
}

impl Wire {
    /// Wraps a connected stream.
    pub fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true); // or small pieces wait for each other
        let traffic = Traffic { begun: Instant::now(), written: AtomicU64::new(0), moved_us: AtomicU64::new(0) };
        Self { stream, traffic: Arc::new(traffic) }
    }

    /// What this wire sees.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }
}

impl Traffic {
    /// Bytes that the kernel has taken.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Counts this moment as one at which something moved.
    pub fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved_us.store(now, Ordering::Relaxed);
    }

    /// For how long nothing has moved.
    pub fn quiet(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_micros(self.moved_us.load(Ordering::Relaxed)))
    }

    /// Waits until nothing has moved for so long.
    pub async fn silent(&self, idle_timeout: Duration) {
        loop {
            match idle_timeout.saturating_sub(self.quiet()) {
                Duration::ZERO => return,
                left => tokio::time::sleep(left).await,
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.traffic.touch();
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        if let Ok(written @ 1..) = result {
            self.traffic.written.fetch_add(written as u64, Ordering::Relaxed);
            self.traffic.touch();
        }
        Poll::Ready(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
