//! Progress: a bar on a terminal, a line for each step elsewhere. On standard error, so that results stay clean.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tell;
use crate::expectation::CellId;

/// Progress of a long task.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    done: u64,
    all: u64,
}

impl Progress {
    /// Progress over so many steps.
    pub fn new(all: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(all as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, plain: !terminal, done: 0, all: all as u64 }
    }

    /// One step is done.
    pub fn step(&mut self, message: &str) {
        self.done += 1;
        if self.plain {
            tell(&format!("[{}/{}] {message}", self.done, self.all));
        } else {
            self.bar.set_message(message.to_owned());
            self.bar.inc(1);
        }
    }

    /// What is under way, where there is a bar to show it.
    pub fn running(&self, cells: &[CellId]) {
        if !self.plain {
            let names: Vec<String> = cells.iter().map(CellId::to_string).collect();
            self.bar.set_message(names.join(", "));
        }
    }

    /// Something that must not scroll away.
    pub fn note(&self, message: &str) {
        self.bar.suspend(|| tell(message));
    }

    /// The task is over.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
