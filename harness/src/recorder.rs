//! Writes a timeline while it happens: to memory for the verdict, to a file for later.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::timeline::{Event, Header, Micros, Record, Timeline, View};

/// Interval of the heartbeat.
const BEAT: Duration = Duration::from_millis(50);
/// How late a timer may be on a machine that has nothing else to do: its resolution, and a way through the scheduler.
const RESOLUTION: Duration = Duration::from_millis(2);
/// How much lateness is worth a record, once it has added up to that.
const STALL: Duration = Duration::from_millis(20);

/// A handle to the timeline of one run; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
    began: Instant,
}

struct Shared {
    timeline: Timeline,
    file: Option<BufWriter<File>>,
    discard: bool,
    failed: Option<std::io::Error>,
}

impl Recorder {
    /// Starts a timeline, in memory and in a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(header: Header, path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = BufWriter::new(File::create(path)?);
        write_line(&mut file, &header)?;
        Ok(Self::new(header, Some(file)))
    }

    /// A recorder that keeps nothing: for measuring a server without measuring its record.
    pub fn discard(header: Header) -> Self {
        let recorder = Self::new(header, None);
        recorder.lock().discard = true;
        recorder
    }

    /// A recorder that writes no file.
    pub fn in_memory(header: Header) -> Self {
        Self::new(header, None)
    }

    fn new(header: Header, file: Option<BufWriter<File>>) -> Self {
        let timeline = Timeline { header, records: Vec::new() };
        let shared = Shared { timeline, file, discard: false, failed: None };
        Self { shared: Arc::new(Mutex::new(shared)), began: Instant::now() }
    }

    /// Notes that something happened now.
    pub fn record(&self, event: Event) {
        let mut shared = self.lock();
        if shared.discard {
            return;
        }
        // Taken under the lock: the order of the records is the order of their times.
        let t_us = self.micros(Instant::now());
        let record = Record { t_us, event };
        if let Some(file) = &mut shared.file
            && let Err(error) = write_line(file, &record)
        {
            shared.failed = Some(error);
            shared.file = None;
        }
        shared.timeline.records.push(record);
    }

    /// This instant on the clock of the timeline.
    pub fn micros(&self, instant: Instant) -> Micros {
        instant.saturating_duration_since(self.began).as_micros() as u64
    }

    /// Watches the harness itself until the run is over: late timers are recorded.
    pub fn heartbeat(&self) -> tokio_util::task::AbortOnDropHandle<()> {
        let recorder = self.clone();
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            let (mut told, mut late) = (Instant::now(), Duration::ZERO);
            loop {
                let due = Instant::now() + BEAT;
                tokio::time::sleep_until(due.into()).await;
                // Whoever writes a record waits for its turn, too.
                drop(recorder.lock());
                late += due.elapsed().saturating_sub(RESOLUTION);
                if late >= STALL {
                    let within_us = told.elapsed().as_micros() as u64;
                    recorder.record(Event::Stalled { late_us: late.as_micros() as u64, within_us });
                    (told, late) = (Instant::now(), Duration::ZERO);
                }
            }
        }))
    }

    /// Whether nothing is kept: who measures speed is not to be disturbed by what else could be recorded.
    pub fn discards(&self) -> bool {
        self.lock().discard
    }

    /// How much of the time so far was lost to other things that the machine had to do.
    pub fn lost(&self) -> Duration {
        let now = self.micros(Instant::now());
        Duration::from_micros(View::new(&self.lock().timeline).lost(0, now))
    }

    /// What was recorded so far.
    pub fn so_far(&self) -> Timeline {
        self.lock().timeline.clone()
    }

    /// Ends the timeline and returns it.
    ///
    /// # Errors
    /// When the file could not be written whole.
    pub fn finish(&self) -> std::io::Result<Timeline> {
        self.record(Event::Finished);
        let mut shared = self.lock();
        if let Some(error) = shared.failed.take() {
            return Err(error);
        }
        if let Some(mut file) = shared.file.take() {
            file.flush()?;
        }
        Ok(shared.timeline.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_line(file: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *file, value)?;
    file.write_all(b"\n")
}
