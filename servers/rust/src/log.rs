//! The log: events on standard output, errors on standard error. It never makes anybody wait: lines go to a
//! queue, a thread writes them, and where nobody reads what does not fit is dropped and counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::lifecycle::Value;

const LOG_QUEUE: usize = 10_000; // lines that wait, for each stream
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500); // for both streams together

/// A file that is written by one thread, which alone may have to wait for a reader.
struct Stream {
    name: &'static str,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    writing: bool,
    dropped: usize,
    said: usize, // of those dropped
}

impl Stream {
    fn start(name: &'static str, file: impl AsFd, say_dropped: fn(usize) -> Vec<u8>) -> Arc<Self> {
        let stream = Arc::new(Self { name, queue: Mutex::default(), changed: Condvar::new() });
        // Not by the handles of the standard library, whose locks the exit would wait for.
        if let Ok(file) = file.as_fd().try_clone_to_owned() {
            let writer = Arc::clone(&stream);
            thread::spawn(move || writer.write_lines(file.into(), say_dropped));
        }
        stream
    }

    fn enqueue(&self, line: Vec<u8>) {
        let mut queue = self.queue.lock().unwrap();
        if queue.lines.len() < LOG_QUEUE {
            queue.lines.push_back(line);
            self.changed.notify_all();
        } else {
            queue.dropped += 1;
        }
    }

    fn flush(&self, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let unwritten = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        drop(self.changed.wait_timeout_while(self.queue.lock().unwrap(), timeout, unwritten));
    }

    fn write_lines(&self, mut file: File, say_dropped: fn(usize) -> Vec<u8>) {
        loop {
            let mut queue = self.queue.lock().unwrap();
            queue.writing = false;
            self.changed.notify_all();
            queue = self.changed.wait_while(queue, |queue| queue.lines.is_empty()).unwrap();
            let line = queue.lines.pop_front().unwrap_or_default();
            let unsaid = queue.dropped - queue.said;
            (queue.writing, queue.said) = (true, queue.dropped);
            drop(queue);
            let before = if unsaid > 0 { say_dropped(unsaid) } else { Vec::new() };
            if file.write_all(&before).and_then(|()| file.write_all(&line)).is_err() {
                self.queue.lock().unwrap().dropped += 1; // a reader that left is no reason to lose a request
            }
        }
    }
}

static STDOUT: LazyLock<Arc<Stream>> = LazyLock::new(|| {
    Stream::start("stdout", io::stdout().as_fd(), |lines| encode("dropped", &[("lines", Value::Number(lines))]))
});
static STDERR: LazyLock<Arc<Stream>> = LazyLock::new(|| {
    Stream::start("stderr", io::stderr().as_fd(), |lines| format!("{lines} lines were dropped\n").into())
});

/// Logs one JSON object: the event, then its fields. rule: log-holds-nothing
pub fn log_event(event: &str, fields: &[(&str, Value<'_>)]) {
    STDOUT.enqueue(encode(event, fields));
}

/// Logs a line for people.
pub fn log_error(text: &str) {
    STDERR.enqueue(format!("{text}\n").into());
}

/// The name of each stream, and how many of its lines were dropped.
pub fn lines_dropped() -> [(&'static str, usize); 2] {
    [&STDOUT, &STDERR].map(|stream| (stream.name, stream.queue.lock().unwrap().dropped))
}

/// Waits until all that was logged is written, but not long.
pub fn flush() {
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    STDOUT.flush(deadline);
    STDERR.flush(deadline);
}

/// Writes the event, then names and values in their order, as one line of JSON.
fn encode(event: &str, fields: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    for (index, (name, value)) in [("event", Value::Text(event))].iter().chain(fields).enumerate() {
        let _ = write!(line, "{}\"{name}\":", if index == 0 { '{' } else { ',' }); // a vector takes all
        let _ = match value {
            Value::Text(text) => serde_json::to_writer(&mut line, text).map_err(io::Error::from),
            Value::Number(number) => write!(line, "{number}"),
            Value::Flag(flag) => write!(line, "{flag}"),
            Value::Names(names) => serde_json::to_writer(&mut line, names).map_err(io::Error::from),
        };
    }
    line.extend(b"}\n");
    line
}
