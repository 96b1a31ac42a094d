//! The replacements of a fleet as pictures in text: a lane for the instance, one for each observer, and one for what users
//! missed, so that one can see who knew what when.

use std::fmt::Write;

use crate::rules::is_of_users;
use crate::timeline::{EndpointState, Micros, Process, ProcessId, StepKind, View};

/// Characters of a lane.
const WIDTH: u64 = 76;
/// How much of the time before is shown, as a share of the picture.
const BEFORE: u64 = 10;
/// Beyond this all is over that a picture could show, in microseconds.
const LONGEST: Micros = 60_000_000;

/// All replacements of a run, one picture each; empty where nothing was replaced.
pub fn lanes(view: &View) -> String {
    let header = view.header;
    let mut out = String::new();
    for (id, old) in replaced(view) {
        let slot = old.slot.unwrap_or_default();
        let _ = writeln!(
            out,
            "{} · {} · {}: instance {slot} is replaced\n",
            header.server, header.topology, header.scenario
        );
        let _ = writeln!(out, "{}", Picture::of(view, id, old).draw());
    }
    if !out.is_empty() {
        out += LEGEND;
    }
    out
}

const LEGEND: &str = "instance: ═ serves, ~ its preStop hook runs, T SIGTERM, ─ drains, K SIGKILL, x has ended
observers: █ sends new connections to it, ▒ no new ones, as it ends, ░ knows it, · does not (any more)
missed: requests lost, refused or answered by an error, each when its fate was certain
";

/// Instances that were told to end, in that order.
fn replaced<'v>(view: &'v View) -> Vec<(ProcessId, &'v Process)> {
    let mut ended: Vec<_> =
        view.servers().filter(|(_, process)| process.slot.is_some() && process.signalled().is_some()).collect();
    ended.sort_by_key(|(_, process)| process.signalled());
    ended
}

/// What is to be drawn of one replacement.
struct Picture<'v, 't> {
    view: &'v View<'t>,
    id: ProcessId,
    old: &'v Process,
    /// When its end began: it was withdrawn, or deleted.
    begun: Micros,
    from: Micros,
    /// Microseconds of a character.
    per_cell: Micros,
    /// When users missed something.
    missed: Vec<Micros>,
}

impl<'v, 't> Picture<'v, 't> {
    fn of(view: &'v View<'t>, id: ProcessId, old: &'v Process) -> Self {
        let signalled = old.signalled().unwrap_or_default();
        let withdrawn = |step: &&crate::timeline::Step| {
            step.what == StepKind::Withdraw && Some(step.slot) == old.slot && step.at <= signalled
        };
        let begun = view.steps.iter().rev().find(withdrawn).map_or(signalled, |step| step.at);
        // Until it has ended and all know it.
        let last_news =
            view.endpoints.iter().filter(|endpoint| endpoint.process == id).map(|endpoint| endpoint.at).max();
        let ended = old.exited.map(|(at, ..)| at).unwrap_or(view.end);
        let until = last_news.unwrap_or(ended).max(ended).min(begun + LONGEST).max(begun + 1);
        // Round numbers are read best.
        let least = (until - begun).div_ceil(WIDTH - BEFORE - 2);
        let round = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];
        let per_cell = round.into_iter().find(|per_cell| *per_cell >= least).unwrap_or(least);
        let attempts = view.attempts(is_of_users).into_iter();
        let missed = attempts.filter(|one| !one.request.is_some_and(|request| request.served()));
        let missed = missed.map(|one| one.ended).collect();
        Self { view, id, old, begun, from: begun.saturating_sub(BEFORE * per_cell), per_cell, missed }
    }

    fn draw(&self) -> String {
        let observers = self.observers();
        let name = observers.iter().map(|name| name.len()).max().unwrap_or(0).max("instance".len());
        let mut out = String::new();
        let _ = writeln!(out, "  {:name$}  {}", "", self.axis());
        let mut lane = |title: &str, cells: String| {
            let _ = writeln!(out, "  {title:name$}  {}", cells.trim_end());
        };
        lane("instance", self.cells(|from, to| self.instance(from, to)));
        for observer in &observers {
            lane(observer, self.cells(|_, to| self.seen_by(observer, to)));
        }
        let mut missed = 0;
        let cells = self.cells(|from, to| {
            let count = self.missed.iter().filter(|at| (from..to).contains(at)).count();
            missed += count;
            match count {
                0 => ' ',
                1..=9 => char::from_digit(count as u32, 10).unwrap_or('+'),
                _ => '+',
            }
        });
        lane("missed", format!("{cells}  {missed}"));
        out
    }

    /// Where the end begins, and each second, or as many as leave room for the numbers.
    fn axis(&self) -> String {
        let mut cells = vec![' '; WIDTH as usize + 8];
        let per_mark = [1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000];
        let per_mark = per_mark.into_iter().find(|mark| mark / self.per_cell >= 8).unwrap_or(30_000_000);
        for mark in 0.. {
            let at = ((self.begun - self.from) + mark * per_mark) / self.per_cell;
            if at >= WIDTH {
                break;
            }
            let label = if mark == 0 { "0 withdrawn".to_owned() } else { format!("{} s", mark * per_mark / 1_000_000) };
            let label = if per_mark / self.per_cell < 14 && mark == 0 { "0".to_owned() } else { label };
            for (cell, character) in cells[at as usize..].iter_mut().zip(label.chars()) {
                *cell = character;
            }
        }
        cells.into_iter().collect::<String>().trim_end().to_owned()
    }

    fn cells(&self, mut cell: impl FnMut(Micros, Micros) -> char) -> String {
        let at = |index: u64| self.from + index * self.per_cell;
        (0..WIDTH).map(|index| cell(at(index), at(index + 1))).collect()
    }

    fn observers(&self) -> Vec<&'t str> {
        let mut observers: Vec<&str> = Vec::new();
        for endpoint in self.view.endpoints.iter().filter(|endpoint| endpoint.process == self.id) {
            if !observers.contains(&endpoint.observer) {
                observers.push(endpoint.observer);
            }
        }
        observers.sort_unstable();
        observers
    }

    fn instance(&self, from: Micros, to: Micros) -> char {
        let within = |at: Micros| (from..to).contains(&at);
        let old = self.old;
        if old.exited.is_some_and(|(at, ..)| at < to) {
            return if old.exited.is_some_and(|(at, ..)| within(at)) { 'x' } else { ' ' };
        }
        if let Some((_, signal)) = old.signals.iter().rev().find(|(at, _)| within(*at)) {
            return if signal == "SIGKILL" { 'K' } else { 'T' };
        }
        match old.signalled() {
            Some(signalled) if signalled < to => '─',
            _ if old.hook.is_some_and(|began| began < to) => '~',
            _ if old.started < to => '═',
            _ => ' ',
        }
    }

    fn seen_by(&self, observer: &str, to: Micros) -> char {
        let mut news = self.view.endpoints.iter().rev();
        let last =
            news.find(|endpoint| endpoint.process == self.id && endpoint.observer == observer && endpoint.at < to);
        match last.map(|endpoint| endpoint.state) {
            Some(EndpointState::Up) => '█',
            Some(EndpointState::Draining) => '▒',
            Some(EndpointState::Starting | EndpointState::Down) => '░',
            Some(EndpointState::Gone) => '·',
            None => ' ',
        }
    }
}
