//! The order in which this server stops. Copy this file: all it needs is passed in.
//!
//! ```text
//! 1 not ready         readiness fails, for good
//! 2 lame-duck         for SHUTDOWN_DELAY everything is still served
//! 3 listener          closes first, and resets nobody
//! 4 idle connections  close last, after one more chance        }
//! 5 in flight         requests finish                          } side by side
//! 6 deadline          after DRAIN_TIMEOUT the rest is cut      }
//! 7 workers           none yet
//! 8 release           each step within its own time
//! 9 exit              0 if nothing was lost, else 1
//! ```

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::SetOnce;
use tokio::time::{Instant, sleep_until, timeout};

/// Only ever goes forward.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Phase {
    Starting,
    Ready,
    LameDuck,
    Draining,
    Releasing,
    Exited,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Starting, Self::Ready, Self::LameDuck, Self::Draining, Self::Releasing, Self::Exited];

    pub fn name(self) -> &'static str {
        ["starting", "ready", "lame-duck", "draining", "releasing", "exited"][self as usize]
    }
}

/// Writes one line: an event and its fields.
pub type LogEvent = fn(&str, &[(&str, Value<'_>)]);

/// What a field of a line may hold.
#[derive(Clone, Copy)]
pub enum Value<'v> {
    Text(&'v str),
    Number(usize),
    Flag(bool),
    Names(&'v [&'v str]),
}

/// Something to be done once: a future does nothing until it is awaited.
pub type Step<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the sequence does, without how.
pub struct Steps {
    pub drain_timeout: Box<dyn Fn() -> Duration>,
    /// Ends when the accept queue is empty and the listener closed; an error is a loss.
    pub close_listener: Step<Result<(), String>>,
    /// Ends when, after `close_listener`, no connection is left.
    pub drained: Step<()>,
    /// Cuts every connection, returns how many requests that cost.
    pub cut_in_flight: Box<dyn Fn() -> usize>,
    pub release: Vec<ReleaseStep>,
    pub reload: Rc<dyn Fn()>,
}

/// Gives back one resource.
pub struct ReleaseStep {
    pub name: &'static str,
    pub timeout: Duration,
    pub run: Step<Result<(), String>>,
}

/// Knows the phase. Any task may ask; only `begin_lame_duck`, `fail` and `run` change it.
pub struct Lifecycle {
    log_event: LogEvent,
    shutdown_delay: Box<dyn Fn() -> Duration + Send + Sync>,
    phase: AtomicU8, // an index of Phase::ALL
    lame_duck_deadline: OnceLock<Instant>,
    listener_closed: SetOnce<()>,
    failed: AtomicBool,
    broken: SetOnce<()>, // by fail
}

impl Lifecycle {
    pub fn new(log_event: LogEvent, shutdown_delay: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            log_event,
            shutdown_delay: Box::new(shutdown_delay),
            phase: AtomicU8::new(Phase::Starting as u8),
            lame_duck_deadline: OnceLock::new(),
            listener_closed: SetOnce::new(),
            failed: AtomicBool::new(false),
            broken: SetOnce::new(),
        }
    }

    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    /// What the readiness probe asks. rule: readiness-fails
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Ready
    }

    /// Whether responses say "Connection: close". rule: close-announced
    pub fn stopping(&self) -> bool {
        self.phase() >= Phase::LameDuck
    }

    /// Returns after step 3: endless streams end then.
    pub async fn listener_closed(&self) {
        self.listener_closed.wait().await;
    }

    /// Ends the start.
    pub fn ready(&self) {
        self.advance(Phase::Ready);
    }

    /// Begins the shutdown without a signal, because a listener works no more.
    /// rule: broken-listener-ends-process
    pub fn fail(&self, reason: &str) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            (self.log_event)("failed", &[("reason", Value::Text(reason))]);
            let _ = self.broken.set(());
        }
    }

    /// Answers signals until the process may exit, and returns its status.
    pub async fn run(&self, mut signals: Signals, steps: Steps) -> i32 {
        let reload = Rc::clone(&steps.reload);
        let mut shut_down = pin!(self.shut_down(steps));
        let (mut begun, mut signalled) = (false, false);
        loop {
            tokio::select! {
                kind = signals.receive() => {
                    (self.log_event)("signal", &[("signal", Value::Text(signal_name(kind)))]);
                    if kind == SignalKind::hangup() {
                        reload();
                    } else if !signalled {
                        (begun, signalled) = (true, true); // SIGTERM and SIGINT alike. rule: int-like-term
                    } else {
                        // Whoever asks twice wants out. rule: second-signal-exits
                        return self.exit(128 + kind.as_raw_value());
                    }
                }
                _ = self.broken.wait(), if !begun => begun = true,
                // The last thing finished. rule: term-ends-process, exit-is-prompt
                status = &mut shut_down, if begun => return self.exit(status),
            }
        }
    }

    /// Goes through the steps once and returns the exit status.
    async fn shut_down(&self, steps: Steps) -> i32 {
        let reason = if self.failed.load(Ordering::SeqCst) { "failure" } else { "signal" };
        self.begin_lame_duck(reason).await; // 1, 2. rule: lame-duck-lasts
        let unclosed = self.close_listener(steps.close_listener).await; // 3
        let drain_timeout = (steps.drain_timeout)();
        let (cut, stuck) = self.drain(drain_timeout, steps.drained, steps.cut_in_flight).await; // 4, 5, 6
        let unreleased = self.release_all(steps.release).await; // 8
        let failed = usize::from(self.failed.load(Ordering::SeqCst));
        exit_status(cut, unclosed + stuck + unreleased + failed) // 9
    }

    /// Steps 1 and 2, begun by a signal or by /prestop; returns when the delay is over. It may be called
    /// again: the delay that has begun goes on, no other one starts. It goes on also where a caller is
    /// dropped, because it is an instant and not somebody's timer. rule: prestop-delay-once
    pub async fn begin_lame_duck(&self, reason: &str) {
        if self.advance(Phase::LameDuck) {
            // Never goes back. rule: readiness-latched
            (self.log_event)("not_ready", &[("reason", Value::Text(reason))]);
        }
        let over = || Instant::now() + (self.shutdown_delay)();
        sleep_until(*self.lame_duck_deadline.get_or_init(over)).await;
    }

    /// Returns how many steps failed: connections that were lost are a loss, though the listener is closed.
    async fn close_listener(&self, close_listener: Step<Result<(), String>>) -> usize {
        let closed = close_listener.await; // before any idle connection is touched. rule: listener-closes-first
        self.advance(Phase::Draining);
        let _ = self.listener_closed.set(());
        self.report("listener_closed", &closed, &[]) // whoever reads it finds the phase reached
    }

    /// Waits for the last connection, but not beyond the deadline; returns the number of requests cut, and
    /// whether a handler is stuck.
    async fn drain(
        &self,
        drain_timeout: Duration,
        mut drained: Step<()>,
        cut_in_flight: Box<dyn Fn() -> usize>,
    ) -> (usize, usize) {
        let (mut cut, mut stuck) = (0, 0);
        // rule: in-flight-answered, deadline-bounds-drain
        if timeout(drain_timeout, &mut drained).await.is_err() {
            cut = cut_in_flight();
            if cut > 0 {
                (self.log_event)("cut", &[("requests", Value::Number(cut))]);
            }
            // Their handlers are dropped where they wait; what they use is released only after that.
            stuck = usize::from(timeout(Duration::from_secs(1), drained).await.is_err());
        }
        (self.log_event)("drained", &[("ok", Value::Flag(stuck == 0))]);
        (cut, stuck)
    }

    /// Runs every step, also after one has failed or run out of time, and returns how many did.
    async fn release_all(&self, steps: Vec<ReleaseStep>) -> usize {
        self.advance(Phase::Releasing);
        let mut failed = 0;
        for step in steps {
            let name = step.name;
            failed += self.report("released", &run_within(step).await, &[("step", Value::Text(name))]);
        }
        failed
    }

    /// Logs how a step ended, and returns how many failed: one, or none.
    fn report(&self, event: &str, outcome: &Result<(), String>, fields: &[(&str, Value<'_>)]) -> usize {
        let mut fields = [fields, &[("ok", Value::Flag(outcome.is_ok()))]].concat();
        if let Err(reason) = outcome {
            fields.push(("error", Value::Text(reason)));
        }
        (self.log_event)(event, &fields);
        usize::from(outcome.is_err())
    }

    fn exit(&self, status: i32) -> i32 {
        self.advance(Phase::Exited);
        (self.log_event)("exit", &[("status", Value::Number(status as usize))]); // never negative
        status
    }

    /// Moves to a later phase; returns false where that phase has been reached already.
    fn advance(&self, to: Phase) -> bool {
        self.phase.fetch_max(to as u8, Ordering::SeqCst) < to as u8
    }
}

/// Runs a step; what it still does after its time-out is nobody's concern any more.
async fn run_within(step: ReleaseStep) -> Result<(), String> {
    let outcome = timeout(step.timeout, step.run).await;
    outcome.unwrap_or_else(|_| Err(format!("not done within {:?}", step.timeout)))
}

/// Tells whoever started us whether the shutdown was clean.
fn exit_status(cut: usize, failed: usize) -> i32 {
    if cut > 0 || failed > 0 {
        return 1; // a loss is never a success. rule: cut-exit-status
    }
    0 // rule: clean-exit-status
}

/// Replaces the default actions from the moment it is made, and keeps what comes until somebody receives.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn receive(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

fn signal_name(kind: SignalKind) -> &'static str {
    if kind == SignalKind::terminate() {
        "SIGTERM"
    } else if kind == SignalKind::interrupt() {
        "SIGINT"
    } else {
        "SIGHUP"
    }
}
