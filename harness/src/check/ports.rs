//! Which of a server's ports is the application's, and what speaks there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::NotLearned;
use crate::client::{Speaks, speaks};
use crate::process::Listening;
use crate::scenario::{Run, Stop, Stranger, Target, listening_on, reachable, starved, unconfirmed};

/// Longest wait for one answer of a server that is warming up.
const ONE: Duration = Duration::from_secs(3);
/// Pause between two questions.
const AGAIN: Duration = Duration::from_millis(100);

/// A server that was started and answers.
pub(super) struct Open {
    pub target: Target,
    /// From its start to its first answer.
    pub start: Duration,
    /// Other ports that it listens on.
    pub others: BTreeSet<u16>,
}

/// Starts the subject and finds the port on which the application answers: the one that it was given, where it opens
/// in time; else, unless `given` says that it must be that one, the one that answers best.
pub(super) async fn open(run: &mut Run<'_>, stranger: &Stranger, given: bool) -> Result<Open, NotLearned> {
    loop {
        match open_once(run, stranger, given).await {
            Err(NotLearned::Stop(stop)) if run.moves(&stop)? => {}
            open => return open,
        }
    }
}

async fn open_once(run: &mut Run<'_>, stranger: &Stranger, given: bool) -> Result<Open, NotLearned> {
    let port = run.port().unwrap_or(stranger.port);
    run.port_is_free(port).await?;
    let process = run.spawn(&[])?;
    let began = Instant::now();
    let deadline = began + stranger.start_within;
    let (way, late) = match listening_on(&process, port, stranger.start_within, deadline).await {
        Ok(listening) => (answers(&reachable(&listening), stranger, deadline).await?, Duration::ZERO),
        Err(Stop::Elsewhere { found, .. }) if !given => (best(&found, stranger).await?, stranger.start_within),
        Err(stop) => return Err(stop.into()),
    };
    let start = began.elapsed().saturating_sub(late);
    let ports = process.tree().listening();
    let others = ports.iter().map(SocketAddr::port).filter(|port| *port != way.port()).collect();
    let listening = Listening { port: way.port(), admin_port: None, instance: None };
    Ok(Open { target: run.target(process, way, listening)?, start, others })
}

/// Waits until one of these addresses answers as it will go on: a server that warms up answers 5xx, closes, or says
/// nothing.
async fn answers(ways: &[SocketAddr], stranger: &Stranger, deadline: Instant) -> Result<SocketAddr, NotLearned> {
    loop {
        let mut last = None;
        for way in ways {
            match speaks(*way, &request(stranger), ONE).await {
                Speaks::Http1(..500) => return Ok(*way),
                Speaks::NoDescriptor => return Err(starved().into()),
                Speaks::Refused => {}
                other => last = Some((*way, other)),
            }
        }
        if let Some((way, protocol)) = last
            && let Some(name) = untested(protocol)
        {
            return Err(NotLearned::NotTested(format!("speaks {name} on {}: not tested yet", way.port())));
        }
        if Instant::now() > deadline {
            let Some(first) = ways.first() else { return Err(unconfirmed("the server answers", "nowhere").into()) };
            return match last {
                Some((way, Speaks::Http1(_))) => Ok(way),
                Some((way, Speaks::Closes)) => Err(dumb(way, "and closes it")),
                Some((way, Speaks::Other)) => Err(dumb(way, "and says what is not HTTP")),
                Some((way, _)) => Err(dumb(way, "and says nothing")),
                None => Err(unconfirmed("the server answers", format!("connecting to {first}: refused")).into()),
            };
        }
        sleep(AGAIN).await;
    }
}

fn dumb(way: SocketAddr, what: &str) -> NotLearned {
    unconfirmed("the server answers", format!("it accepts a connection on port {} {what}", way.port())).into()
}

fn untested(protocol: Speaks) -> Option<&'static str> {
    match protocol {
        Speaks::Tls => Some("TLS"),
        Speaks::Http2 => Some("HTTP/2 without HTTP/1.1"),
        _ => None,
    }
}

/// Of several ports none of which the server was given, the one that answers best.
async fn best(found: &[SocketAddr], stranger: &Stranger) -> Result<SocketAddr, NotLearned> {
    let mut by_port: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
    for at in found {
        by_port.entry(at.port()).or_default().push(*at);
    }
    let mut ranked = Vec::new();
    let mut silent = Vec::new();
    for listening in by_port.values() {
        for way in reachable(listening) {
            match speaks(way, &request(stranger), ONE).await {
                Speaks::Http1(status) => ranked.push((status >= 400, status >= 500, way)),
                Speaks::NoDescriptor => return Err(starved().into()),
                Speaks::Refused => continue,
                other => silent.push((way, other)),
            }
            break;
        }
    }
    ranked.sort_unstable();
    match (ranked.as_slice(), silent.as_slice()) {
        ([one], _) => Ok(one.2),
        ([first, second, ..], _) if (first.0, first.1) != (second.0, second.1) => Ok(first.2),
        ([], []) => Err(unconfirmed("the server answers", "no port of it accepts a connection").into()),
        ([], [(way, protocol), ..]) => Err(match untested(*protocol) {
            Some(name) => NotLearned::NotTested(format!("speaks {name} on {}: not tested yet", way.port())),
            None => dumb(*way, "and answers no HTTP request"),
        }),
        (several, _) => {
            let ports: Vec<String> = several.iter().map(|(.., way)| way.port().to_string()).collect();
            Err(NotLearned::NotTested(format!(
                "listens on several ports, none of which is the one that it was given, and they answer alike: {}; name \
                 the application's with --port",
                ports.join(", ")
            )))
        }
    }
}

fn request(stranger: &Stranger) -> String {
    let mut text = format!("GET {} HTTP/1.1\r\nConnection: close\r\n", stranger.quick.path);
    for (name, value) in &stranger.headers {
        text.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text + "\r\n"
}
