//! Where a server runs decides which rules matter.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::rules::{self, Level};
use crate::verdict::{RuleVerdict, Verdict};

/// Where the server under test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Clients connect to it directly, and a supervisor restarts it
    Standalone,
    /// A load balancer with keep-alive connections stands before it
    LoadBalancer,
    /// It runs in a pod behind a Service
    Kubernetes,
}

impl Profile {
    /// Why a rule is not judged here; `None` where it is.
    pub fn why_not(self, rule: &str) -> Option<&'static str> {
        match (self, rule) {
            (_, "kill-recovers") => Some("what SIGKILL loses is measured, and nobody's fault"),
            (_, "log-holds-nothing") => {
                Some("few promise it, and whoever runs them sees to it that their output is read")
            }
            (
                _,
                "broken-listener-ends-process"
                | "deadline-bounds-drain"
                | "cut-exit-status"
                | "slow-head-bounded"
                | "stalled-body-bounded"
                | "overload-sheds"
                | "slow-reader-bounded"
                | "streams-limited-apart",
            ) => Some("its limits are its own, and nobody here knows them"),
            _ if rules::is_about_fleets(rule) => Some("it takes several instances, and whatever stands before them"),
            (_, "liveness-stays") => Some("no liveness probe of it is known"),
            (_, "prestop-waits" | "prestop-keeps-process" | "prestop-delay-once") => {
                Some("no preStop hook of it is known")
            }
            (Self::Standalone, "readiness-fails" | "readiness-latched") => Some("nobody asks whether it is ready"),
            (Self::Standalone, "lame-duck-serves" | "lame-duck-lasts") => {
                Some("nobody has to hear of it before its listener closes")
            }
            (Self::Standalone, "keep-alive-outlasts-balancer") => Some("no balancer keeps connections to it"),
            _ => None,
        }
    }

    /// The verdict with the weight that its rule has here. In a pod it is by a lame-duck alone that a server is not asked
    /// when it listens no more; and what the user has said is promised.
    pub fn weigh(self, verdict: RuleVerdict) -> RuleVerdict {
        let must = match self {
            Self::Standalone => false,
            Self::LoadBalancer => verdict.rule == "lame-duck-lasts",
            Self::Kubernetes => matches!(verdict.rule.as_str(), "lame-duck-serves" | "lame-duck-lasts"),
        };
        match verdict.verdict {
            _ if !must => verdict,
            Verdict::Warn => RuleVerdict { level: Level::Must, verdict: Verdict::Fail, ..verdict },
            _ => RuleVerdict { level: Level::Must, ..verdict },
        }
    }

    /// Why a rule matters here; `None` where it is not judged.
    pub fn why(self, rule: &str) -> Option<&'static str> {
        let everywhere = match rule {
            "in-flight-answered" => "a request that was taken and not answered is a failed payment",
            "response-untruncated" => "a response that breaks off is one that the client has to throw away",
            "cut-is-visible" => "a client that takes half a response for a whole one works on with wrong data",
            "pipelined-in-order" | "continue-answered" => "HTTP/1.1 promises it to every client",
            "term-ends-process"
            | "idle-holds-nothing"
            | "unused-holds-nothing"
            | "kept-open-holds-nothing"
            | "half-request-holds-nothing"
            | "load-does-not-hold-exit" => {
                "what does not end by itself is killed when the grace period is over, with all that it was doing"
            }
            "signal-reaches-server" => {
                "a server that never hears of it is killed, with all that it was doing, or lives on and holds the port"
            }
            "nothing-lost-in-peace" => "what is lost without a deploy is lost every day",
            "exit-is-prompt" => "a roll-out waits for each instance in turn",
            "group-signal-drains" => "terminals, foreman and Heroku signal the whole process group",
            "client-gone-releases" => "work for nobody delays the end of the process",
            "port-free-after-exit" => "the successor must be able to listen at once",
            "new-connections-refused" => "a refused client goes elsewhere at once; one left hanging waits",
            "clean-exit-status" => "whoever supervises the process reads a failure from its exit status",
            "int-like-term" => "Ctrl-C in a terminal and some supervisors send SIGINT",
            "startup-signal-ends-process" => "a roll-out that is turned back stops processes that are just starting",
            "endless-stream-ends" => {
                "a stream that breaks off looks like a failure, and one that goes on holds the process"
            }
            "second-signal-exits" => "somebody who asks twice wants out",
            "hup-keeps-serving" => "a closed terminal or a log rotation sends SIGHUP",
            _ => "",
        };
        let here = match (self, rule) {
            (Self::LoadBalancer, "late-request-answered" | "nothing-lost-on-keep-alive" | "idle-closed-by-fin") => {
                "the balancer's pooled connections are idle most of the time, and it sends its next request on one of them"
            }
            (Self::LoadBalancer, "close-announced") => {
                "the balancer takes a connection out of its pool when it is told to"
            }
            (Self::LoadBalancer, "nothing-lost-in-accept-queue" | "listener-closes-first") => {
                "the balancer opens new connections until its health check fails"
            }
            (Self::LoadBalancer, "readiness-fails" | "readiness-latched") => {
                "the health check is how the balancer learns of it"
            }
            (Self::LoadBalancer, "lame-duck-serves" | "lame-duck-lasts") => {
                "the balancer goes on connecting until its health check has failed often enough"
            }
            (Self::Kubernetes, "lame-duck-serves" | "lame-duck-lasts") => {
                "nodes and balancers go on connecting for seconds, until they have heard that the endpoint is withdrawn; \
                 a preStop sleep does the same: where you have one, say --lame-duck 0"
            }
            (Self::LoadBalancer | Self::Kubernetes, "keep-alive-outlasts-balancer") => {
                "a balancer that sends its next request while the server closes answers 502 to its client, without any \
                 restart (--balancer-idle S says how long yours keeps connections)"
            }
            (Self::Kubernetes, "nothing-lost-in-accept-queue" | "listener-closes-first") => {
                "the endpoint is withdrawn while the signal arrives, in no particular order: connections still come"
            }
            (
                Self::Kubernetes,
                "late-request-answered" | "nothing-lost-on-keep-alive" | "close-announced" | "idle-closed-by-fin",
            ) => "connections that are established stay on the pod when its endpoint is withdrawn",
            (Self::Kubernetes, "readiness-fails" | "readiness-latched") => {
                "the readiness probe goes on while the pod terminates, and its word decides whether traffic still comes"
            }
            (Self::Standalone, "nothing-lost-in-accept-queue" | "nothing-lost-on-keep-alive") => {
                "clients connect directly, and nobody retries for them"
            }
            (
                Self::Standalone,
                "late-request-answered" | "close-announced" | "idle-closed-by-fin" | "listener-closes-first",
            ) => "clients with keep-alive connections send their next request without knowing of the shutdown",
            _ => "",
        };
        [everywhere, here].into_iter().find(|why| !why.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_pod_alone_a_lame_duck_that_does_not_serve_is_a_failure() {
        let rule = crate::rules::find("lame-duck-serves").unwrap();
        let found = |verdict| RuleVerdict {
            rule: rule.slug.to_owned(),
            level: rule.level_for(false),
            basis: rule.basis,
            verdict,
            expected: String::new(),
            actual: String::new(),
            evidence: Vec::new(),
            reason: None,
            share: None,
        };
        let weighed = |profile: Profile, verdict| {
            let weighed = profile.weigh(found(verdict));
            (weighed.level, weighed.verdict)
        };
        assert_eq!(weighed(Profile::Kubernetes, Verdict::Warn), (Level::Must, Verdict::Fail));
        assert_eq!(weighed(Profile::Kubernetes, Verdict::Pass), (Level::Must, Verdict::Pass));
        assert_eq!(weighed(Profile::Kubernetes, Verdict::Inconclusive), (Level::Must, Verdict::Inconclusive));
        assert_eq!(weighed(Profile::LoadBalancer, Verdict::Warn), (Level::Should, Verdict::Warn));
    }

    #[test]
    fn every_rule_is_judged_or_it_is_said_why_not() {
        for profile in Profile::value_variants() {
            for rule in crate::rules::all() {
                let (why, why_not) = (profile.why(rule.slug), profile.why_not(rule.slug));
                assert!(why.is_some() != why_not.is_some(), "{profile:?}: {}: {why:?}, {why_not:?}", rule.slug);
            }
        }
    }
}
