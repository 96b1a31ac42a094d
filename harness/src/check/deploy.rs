//! What a check means for whoever deploys the server. Pure.

use super::{CheckResults, CheckedRule, Profile};
use crate::rules::Reason;
use crate::verdict::Verdict;

/// Rules about losses, and what is lost where one is broken.
const LOSSES: [(&str, &str); 7] = [
    ("in-flight-answered", "in flight"),
    ("response-untruncated", "in the middle of a response"),
    ("nothing-lost-on-keep-alive", "on keep-alive connections"),
    ("nothing-lost-in-accept-queue", "on connections that it had just accepted, or was about to"),
    ("late-request-answered", "on idle connections"),
    ("pipelined-in-order", "pipelined"),
    ("continue-answered", "whose body was on its way"),
];

/// Rules about what holds the process.
const HELD: [&str; 6] = [
    "idle-holds-nothing",
    "kept-open-holds-nothing",
    "unused-holds-nothing",
    "half-request-holds-nothing",
    "load-does-not-hold-exit",
    "client-gone-releases",
];

/// What these results mean for a deploy, in a sentence or two. Losses count whatever the level of their rule.
pub fn deploy(results: &CheckResults) -> String {
    let (who, each) = match results.profile {
        Profile::Standalone => ("a restart", "the process"),
        Profile::LoadBalancer => ("a deploy behind a load balancer", "each instance"),
        Profile::Kubernetes => ("a rolling update", "each pod"),
    };
    let broken = |slug: &str| results.rule(slug).filter(|rule| rule.is_broken());
    let mut parts = Vec::new();
    let losses: Vec<String> = LOSSES.iter().filter_map(|(slug, where_)| loss(broken(slug)?, where_)).collect();
    if !losses.is_empty() {
        parts.push(format!("{who} loses requests: {}", losses.join("; ")));
    }
    let grace = results.grace_s;
    if broken("signal-reaches-server").is_some() {
        parts.push(format!("{each} never hears of the signal: it is killed with all that it is doing, or left behind"));
    } else if broken("term-ends-process").is_some_and(|rule| rule.reason == Some(Reason::Never)) {
        parts.push(format!("{each} may be killed when the {grace} s of grace are over, with all that it is doing"));
    } else if broken("term-ends-process").is_some() && !HELD.iter().any(|slug| broken(slug).is_some()) {
        parts.push(format!("{each} takes longer to stop than it needs"));
    } else if HELD.iter().any(|slug| broken(slug).is_some()) {
        parts.push(format!("{each} takes longer to stop than it needs, held by its clients"));
    }
    if results.profile == Profile::Kubernetes && broken("readiness-fails").is_some() {
        parts.push("requests still come while it stops, because its readiness does not fail".to_owned());
    }
    if broken("port-free-after-exit").is_some() {
        parts.push("the successor may find the port taken".to_owned());
    }
    let known = results.rule("in-flight-answered").is_some_and(|rule| rule.verdict != Verdict::Inconclusive);
    match (parts.is_empty(), known) {
        (true, true) => parts.push(format!("{who} loses nothing of what was tested here")),
        (true, false) => parts.push(format!(
            "what {who} does to requests in flight is not known: none could be caught (--slow PATH names what takes time)"
        )),
        (false, true) => {}
        (false, false) if losses.is_empty() => {
            parts.push("what becomes of requests in flight is not known".to_owned());
        }
        (false, false) => {}
    }
    format!("{}.", capitalised(&parts.join("; ")))
}

/// How many were lost, and where that was seen.
fn loss(rule: &CheckedRule, where_: &str) -> Option<String> {
    let (lost, of) = (rule.lost?, rule.of?);
    Some(format!("{lost} of {of} {where_} ({})", rule.scenario))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default() + letters.as_str()
}
