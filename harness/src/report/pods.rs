//! What became of the pods of a workload, and what to change, in words.

use std::collections::BTreeMap;
use std::fmt::Write;

use anstyle::Style;

use super::paint;
use crate::rollout::{Advice, PodRow, Roll, Source};

/// Pods of a kind that are shown; a program reads all of them.
const PODS: usize = 12;
/// Columns of what is told in sentences.
const WIDTH: usize = 110;
/// So much of a note is shown, in characters.
const NOTE: usize = 160;
/// Notes on pods that are shown.
const NOTES: usize = 8;

/// What became of the pods: a line for each, with the time of each step since the one that began it.
pub fn pods(roll: &Roll) -> String {
    let mut out = String::new();
    let (old, new): (Vec<&PodRow>, Vec<&PodRow>) = roll.pods.iter().partition(|pod| pod.old);
    let ended = |pod: &&PodRow| pod.deleted_s.is_some() || pod.gone_s.is_some();
    let stopped: Vec<&PodRow> = old.into_iter().filter(ended).collect();
    let made: Vec<&PodRow> = new.into_iter().filter(|pod| pod.created_s.is_some()).collect();
    if !stopped.is_empty() {
        let _ = writeln!(
            out,
            "pods of {} that were stopped; seconds from the start, then from the deletion",
            roll.workload
        );
        let head = [
            "pod",
            "node",
            "deleted",
            "signal",
            "by",
            "not ready",
            "withdrawn",
            "last answer",
            "exit",
            "status",
            "gone",
            "missed",
        ];
        out += &table(&head, stopped.iter().map(|pod| stop(pod)).collect());
    }
    if !made.is_empty() {
        let _ = writeln!(out, "\npods that took their place; seconds from the start, then from the creation");
        let head = ["pod", "node", "created", "ready", "first answer"];
        out += &table(&head, made.iter().map(|pod| begin(pod)).collect());
    }
    if roll.spec.services.is_empty() {
        out += "\nno Service selects these pods: what becomes of their endpoints is not known\n";
    }
    out += &notes(roll);
    out
}

fn stop(pod: &PodRow) -> Vec<String> {
    let since = |at: Option<f64>| match (at, pod.deleted_s) {
        (Some(at), Some(deleted)) => format!("{:+.2}", at - deleted),
        _ => "–".to_owned(),
    };
    let by = pod.signalled.map_or("–", |signalled| match signalled.by {
        Source::Log => "its log",
        Source::Hook => "hook",
        Source::Deletion => "no hook",
        Source::FailedHook => "failed hook",
    });
    let status = pod.exit.as_ref().map_or("–".to_owned(), |exit| format!("{} {}", exit.code, exit.reason));
    vec![
        pod.name.clone(),
        pod.node.clone().unwrap_or_default(),
        pod.deleted_s.map_or("–".to_owned(), |at| format!("{at:+.2}")),
        since(pod.signalled.map(|signalled| signalled.at_s)),
        by.to_owned(),
        since(pod.not_ready_s),
        since(pod.withdrawn_s),
        since(pod.last_answer_s),
        since(pod.exit.as_ref().map(|exit| exit.at_s)),
        status,
        since(pod.gone_s),
        pod.missed.to_string(),
    ]
}

fn begin(pod: &PodRow) -> Vec<String> {
    let since = |at: Option<f64>| match (at, pod.created_s) {
        (Some(at), Some(created)) => format!("{:+.2}", at - created),
        _ => "–".to_owned(),
    };
    vec![
        pod.name.clone(),
        pod.node.clone().unwrap_or_default(),
        pod.created_s.map_or("–".to_owned(), |at| format!("{at:+.2}")),
        since(pod.ready_s),
        since(pod.first_answer_s),
    ]
}

/// Columns as wide as they have to be; words to the left, numbers to the right.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let more = rows.len().saturating_sub(PODS);
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    let shown: Vec<&Vec<String>> = std::iter::once(&head).chain(rows.iter().take(PODS)).collect();
    let width = |column: usize| shown.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in &shown {
        let cells = row.iter().zip(&widths).zip(&head).map(|((cell, width), title)| match title.as_str() {
            "pod" | "node" | "by" | "status" => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let _ = writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    if more > 0 {
        let _ = writeln!(out, "  and {more} more; --format json has all");
    }
    out
}

fn notes(roll: &Roll) -> String {
    let mut lines: Vec<String> = Vec::new();
    // What the cluster says of several pods in the same way differs in their names at most.
    let mut kinds: BTreeMap<&str, Vec<(&PodRow, &str)>> = BTreeMap::new();
    for pod in &roll.pods {
        for notice in &pod.notices {
            let reason = notice.split(':').next().unwrap_or_default();
            kinds.entry(reason).or_default().push((pod, notice));
        }
    }
    for pods in kinds.values() {
        let (pod, notice) = pods[0];
        let more = if pods.len() > 1 { format!(" and {} more", pods.len() - 1) } else { String::new() };
        lines.push(format!("{}{more}: {}", pod.name, shortened(notice)));
    }
    for pod in &roll.pods {
        lines.extend(pod.lines.iter().map(|line| format!("{} writes: {line}", pod.name)));
    }
    lines.extend(roll.failed.iter().map(|why| format!("the cluster has given up: {why}")));
    lines.extend(roll.unseen.iter().cloned());
    let more = lines.len().saturating_sub(NOTES);
    let mut out: String = lines.iter().take(NOTES).map(|line| format!("  {line}\n")).collect();
    if more > 0 {
        let _ = writeln!(out, "  and {more} more; --format json has all");
    }
    if out.is_empty() { out } else { format!("\nwhat the cluster noted\n{out}") }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(NOTE) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.trim_end().to_owned(),
    }
}

/// What to change, and how.
pub fn advice(advice: &[Advice]) -> String {
    let bold = Style::new().bold();
    if advice.is_empty() {
        return "\nNothing is to be changed.\n".to_owned();
    }
    let mut out = format!("\n{}\n", paint(bold, "What to change"));
    for (number, one) in advice.iter().enumerate() {
        let text = textwrap::fill(
            &one.text,
            textwrap::Options::new(WIDTH).initial_indent(&format!("{}. ", number + 1)).subsequent_indent("   "),
        );
        let _ = writeln!(out, "{text}");
        if let Some(command) = &one.command {
            let _ = writeln!(out, "\n{command}\n");
        }
    }
    if advice.iter().any(|one| one.patch.is_some()) {
        out += "A patch of the pods replaces them once more, and only the rollout after that is better.\n";
    }
    out
}
