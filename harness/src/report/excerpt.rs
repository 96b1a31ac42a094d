//! A part of a timeline, for people.

use crate::timeline::{Event, Record, Timeline};

/// Records shown before and after each piece of evidence.
const AROUND: usize = 2;
/// Lines shown at most.
const MOST: usize = 14;

/// The records at these times and what happened around them, one line each; evidence is marked.
pub fn excerpt(timeline: &Timeline, evidence: &[u64]) -> Vec<String> {
    let records: Vec<&Record> = timeline.records.iter().filter(|record| tells(&record.event)).collect();
    let begin = records.iter().find_map(|record| match &record.event {
        Event::Signal { .. } => Some(record.t_us),
        _ => None,
    });
    let shows = |record: &Record| evidence.contains(&record.t_us) || matches!(record.event, Event::Signal { .. });
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        records[from..records.len().min(at + AROUND + 1)].iter().any(|record| evidence.contains(&record.t_us))
    };
    let mut lines = Vec::new();
    let mut skipped = false;
    for (at, record) in records.iter().enumerate() {
        if !shows(record) && !near(at) {
            skipped = true;
            continue;
        }
        if lines.len() >= MOST {
            lines.push("  …".to_owned());
            break;
        }
        if std::mem::take(&mut skipped) && !lines.is_empty() {
            lines.push("  …".to_owned());
        }
        let mark = if evidence.contains(&record.t_us) { "▶" } else { " " };
        lines.push(format!("{mark} {:>9}  {}", time(record.t_us, begin), words(&record.event)));
    }
    lines
}

/// Milliseconds from the signal, where there is one.
fn time(t_us: u64, signal: Option<u64>) -> String {
    format!("{:+.1} ms", (t_us as f64 - signal.unwrap_or(0) as f64) / 1e3)
}

/// How late the harness must be at once, in microseconds, to be told.
const TOLD_STALL_US: u64 = 200_000;

fn tells(event: &Event) -> bool {
    if let Event::Stalled { late_us, .. } = event {
        return *late_us >= TOLD_STALL_US;
    }
    !matches!(
        event,
        Event::Log { .. }
            | Event::Executed { .. }
            | Event::InFlight { .. }
            | Event::Confirmed { .. }
            | Event::Received { .. }
            | Event::Starved { .. }
            | Event::Read { .. }
            | Event::Finished
    )
}

fn words(event: &Event) -> String {
    match event {
        Event::Opened { connection, role, .. } => format!("connection {connection} opened ({})", name(role)),
        Event::NotOpened { connection, why, role, .. } => {
            format!("connection {connection} ({}): {}", name(role), name(why))
        }
        Event::Sent { connection, request, path, .. } => format!("{request} sent on connection {connection}: {path}"),
        Event::Unsent { connection, request, .. } => format!("{request} not sent: connection {connection} had ended"),
        Event::Head { request, status, close, .. } => {
            format!("{request} gets a head: {status}{}", if *close { ", Connection: close" } else { "" })
        }
        Event::Answered { request, body_bytes, .. } => format!("{request} answered, {body_bytes} body bytes"),
        Event::Broken { request, why, body_bytes } => {
            format!("{request} broken by {} after {body_bytes} body bytes", name(why))
        }
        Event::Ended { connection, how } => format!("connection {connection} ended by {}", name(how)),
        Event::Signal { name, group: true, .. } => format!("{name} to the whole process group"),
        Event::Started { settings, .. } if settings.is_empty() => "process started".to_owned(),
        Event::Started { settings, .. } => {
            let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("process started with {}", settings.join(" "))
        }
        Event::Unrecorded { lines, recorded, .. } => {
            format!("{} lines are not recorded any more, after {recorded}", name(lines))
        }
        Event::Signal { name, .. } => name.clone(),
        Event::Step { slot, what } => format!("instance {slot}: {}", what.words()),
        Event::Endpoint { observer, process, state } => format!("{observer}: process {process} is {}", state.word()),
        Event::Reloaded { .. } => "the balancer reads its configuration again".to_owned(),
        Event::SignalPast { name, .. } => format!("{name} to whoever listens, past the process"),
        Event::Listeners { listeners, .. } => match &listeners[..] {
            [] => "nobody listens".to_owned(),
            [first, ..] => format!("{first} listens"),
        },
        Event::ListenerClosed { .. } => "listener closed".to_owned(),
        Event::WaitedNoLonger { .. } => "the harness waits no longer".to_owned(),
        Event::Killed { .. } => "the harness kills the process".to_owned(),
        Event::Muted { .. } => "nobody reads its output any more".to_owned(),
        Event::Frozen { .. } => "the harness holds it by SIGSTOP".to_owned(),
        Event::Thawed { .. } => "it goes on".to_owned(),
        Event::ListenerBroken { .. } => "the harness breaks its listener".to_owned(),
        Event::Exited { code, signal, .. } => match (code, signal) {
            (Some(code), _) => format!("process exited with {code}"),
            (_, Some(signal)) => format!("process killed by signal {signal}"),
            _ => "process ended".to_owned(),
        },
        Event::Stalled { late_us, .. } => format!("the harness itself was late by {:.1} ms", *late_us as f64 / 1e3),
        Event::Listening { port, .. } => format!("the server answers on port {port}"),
        Event::Uploaded { request } => format!("{request}: its body is written"),
        Event::Continued { request } => format!("{request} gets 100 Continue"),
        Event::Stderr { line, .. } => format!("stderr: {}", line.chars().take(100).collect::<String>()),
        other => name(other),
    }
}

/// The name that a value has in the file.
fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}
