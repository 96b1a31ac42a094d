//! The deploy itself: anybody's command. What it starts is its own affair and goes on; only the command is stopped, where
//! it is no longer waited for.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::tally::COMMAND;
use crate::process::Splitter;
use crate::recorder::Recorder;
use crate::timeline::{Event, Part};

/// So many lines are recorded.
const LINES: usize = 1_000;
/// How long it may take to stop when it is told to. One that does not goes on without us: nobody kills a deploy half-way.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// How long its output is read when it has ended: what it has started may keep it open for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A command that runs. Dropping it tells its process group to stop.
pub struct Deploy {
    child: Child,
    group: Option<Pid>,
    readers: Vec<JoinHandle<()>>,
    recorder: Recorder,
}

/// How a deploy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    ByItself {
        /// With status 0.
        succeeded: bool,
    },
    /// It had not, in all the time that it had, and was told to.
    TooLate,
}

impl Deploy {
    /// Starts it, with nothing to read, in a process group of its own.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub fn start(command: &[String], recorder: &Recorder, told: fn(&str)) -> std::io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        recorder.record(Event::Started {
            process: COMMAND,
            pid,
            part: Part::default(),
            slot: None,
            settings: Default::default(),
        });
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let event = |line| Event::Log { process: COMMAND, line };
            readers.push(tokio::spawn(read(stdout, recorder.clone(), told, event)));
        }
        if let Some(stderr) = child.stderr.take() {
            let event = |line| Event::Stderr { process: COMMAND, line };
            readers.push(tokio::spawn(read(stderr, recorder.clone(), told, event)));
        }
        let group = Some(Pid::from_raw(pid.cast_signed())).filter(|pid| pid.as_raw() > 1);
        Ok(Self { child, group, readers, recorder: recorder.clone() })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn ended(mut self, within: Duration) -> std::io::Result<Ended> {
        let (status, ended) = match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                (status, Ended::ByItself { succeeded: status.success() })
            }
            Err(_) => {
                self.stop();
                match tokio::time::timeout(STOPS_WITHIN, self.child.wait()).await {
                    Ok(status) => (status?, Ended::TooLate),
                    Err(_) => return Ok(Ended::TooLate),
                }
            }
        };
        self.group = None;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let last_words = futures_util::future::join_all(self.readers.iter_mut());
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        self.recorder.record(Event::Exited { process: COMMAND, code: status.code(), signal });
        Ok(ended)
    }

    fn stop(&self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGTERM);
        }
    }
}

impl Drop for Deploy {
    fn drop(&mut self) {
        self.stop();
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

/// Records each line, and shows it.
async fn read(mut output: impl AsyncRead + Unpin, recorder: Recorder, told: fn(&str), event: impl Fn(String) -> Event) {
    let (mut chunk, mut splitter, mut recorded) = (vec![0; 16 << 10], Splitter::default(), 0);
    let mut take = |line: String| {
        told(&line);
        recorded += 1;
        if recorded <= LINES {
            recorder.record(event(line));
        }
    };
    while let Ok(length @ 1..) = output.read(&mut chunk).await {
        splitter.feed(&chunk[..length], &mut take);
    }
    splitter.rest().into_iter().for_each(take);
}
