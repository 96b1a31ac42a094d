//! What a deploy cost, in words and as a picture in text.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::paint;
use super::pods;
use crate::rollout::{Advice, Count, Roll, Tally};

/// Lines of the command that are shown; where there are more, those that cost something come first.
const STEPS: usize = 20;
/// Heights of a column.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What a deploy cost, and what became of the pods of its workload, where that was watched. Up to `allowed` missed requests
/// are in order.
pub fn rollout(tally: &Tally, allowed: u64, watched: Option<(&Roll, &[Advice])>) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:8} {:>7} {:>7} {:>6} {:>6} {:>7} {:>9} {:>9}  statuses",
        "", "asked", "served", "lost", "unsent", "failed", "p50 ms", "p99 ms"
    );
    for (name, count) in [("before", &tally.before), ("during", &tally.during), ("after", &tally.after)] {
        out += &row(name, count);
    }
    if tally.columns.iter().any(|column| column.ended > 0) {
        out += &picture(tally);
    }
    out += &steps(tally);
    match watched {
        Some((roll, _)) => {
            if !tally.steps.is_empty() {
                out.push('\n');
            }
            out += pods::pods(roll).trim_start_matches('\n');
            out.push('\n');
        }
        None => out += &instances(tally),
    }
    let _ = writeln!(out, "longest time without an answer: {:.1} s", tally.longest_gap_s);
    let _ =
        writeln!(out, "not known: what was done twice, and what was done although it failed; responses do not tell");
    if let Some((_, advice)) = watched.filter(|_| tally.untold.is_none()) {
        out += &pods::advice(advice);
    }
    out.push('\n');
    out += &verdict(tally, allowed);
    out.push('\n');
    out
}

fn row(name: &str, count: &Count) -> String {
    let ms = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
    let statuses: Vec<String> = count.statuses.iter().map(|(status, times)| format!("{status}: {times}")).collect();
    let Count { asked, served, lost, unsent, failed, .. } = count;
    let line = format!(
        "{name:8} {asked:>7} {served:>7} {lost:>6} {unsent:>6} {failed:>7} {:>9} {:>9}  {}",
        ms(count.p50_ms),
        ms(count.p99_ms),
        statuses.join(", ")
    );
    format!("{}\n", line.trim_end())
}

/// A column for each stretch of time: how much of what ended in it was missed; below, when the command ran.
fn picture(tally: &Tally) -> String {
    let red = Style::new().fg_color(Some(AnsiColor::Red.into()));
    let mut missed = String::new();
    let mut deploying = String::new();
    for column in &tally.columns {
        let height = |share: f64| HEIGHTS[((share * HEIGHTS.len() as f64).ceil() as usize).clamp(1, HEIGHTS.len()) - 1];
        match column {
            column if column.ended == 0 => missed.push(' '),
            column if column.missed == 0 => missed.push('·'),
            column => {
                let high = height(column.missed as f64 / column.ended as f64);
                missed += &paint(red, &high.to_string());
            }
        }
        deploying.push(if column.deploying { '═' } else { ' ' });
    }
    let each = tally.column_s;
    format!("\nmissed   {missed}  share of each {each:.2} s\ndeploy   {}\n\n", deploying.trim_end())
}

fn steps(tally: &Tally) -> String {
    let mut out = String::new();
    let all = tally.steps.len();
    let mut shown: Vec<usize> = (0..all).collect();
    if all > STEPS {
        shown.sort_by_key(|at| (std::cmp::Reverse(tally.steps[*at].missed), *at));
        shown.truncate(STEPS);
        shown.sort_unstable();
    }
    for at in &shown {
        let step = &tally.steps[*at];
        let missed = if step.missed > 0 { format!("{} missed", step.missed) } else { String::new() };
        let _ = writeln!(out, "{:>+8.1} s  {missed:<12} {}", step.at_s, step.line);
    }
    if all > shown.len() {
        let _ = writeln!(out, "            and {} more lines", all - shown.len());
    }
    out
}

/// Who answered from when to when, in the order in which they came: the switch-over.
fn instances(tally: &Tally) -> String {
    let mut spans: Vec<(&str, f64, f64)> =
        tally.instances.iter().map(|(name, (first, last))| (name.as_str(), *first, *last)).collect();
    spans.sort_by(|a, b| a.1.total_cmp(&b.1));
    let line = |(name, first, last): &(&str, f64, f64)| {
        format!("instance {name}: first answer {first:+.1} s, last {last:+.1} s\n")
    };
    // Of one alone there is nothing to be told.
    spans.iter().filter(|_| spans.len() > 1).map(line).collect()
}

/// The last line: what it comes to.
fn verdict(tally: &Tally, allowed: u64) -> String {
    let bold = Style::new().bold();
    const INCOMPLETE: &str = " The rollout was not complete when it was waited for no longer.";
    if let Some(why) = &tally.untold {
        let ended = if tally.rolled_out == Some(false) { INCOMPLETE } else { "" };
        return paint(bold, &format!("Nothing can be said of this deploy: {why}.{ended}"));
    }
    let asked = tally.during.asked + tally.after.asked;
    let ended = match (tally.status, tally.rolled_out) {
        (_, Some(false)) => INCOMPLETE.to_owned(),
        (Some(0), _) | (None, Some(true)) => String::new(),
        (Some(status), _) => format!(" The command failed with status {status}."),
        (None, None) => " The command was ended by a signal.".to_owned(),
    };
    let what = match tally.missed() {
        0 => format!("The deploy lost none of {asked} requests."),
        missed if missed <= allowed => format!("The deploy missed {missed} of {asked} requests, of {allowed} allowed."),
        missed => format!("The deploy missed {missed} of {asked} requests."),
    };
    paint(bold, &format!("{what}{ended}"))
}
