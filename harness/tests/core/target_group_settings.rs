//! What can be set on a target group, and what a client gets: the documented limits and statuses, by tables.

use std::time::Duration;

use drainspec::model::target_group::{Fault, Matcher, Settings, TargetType};

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_defaults_are_those_of_aws_and_valid() {
    let settings = Settings::default();
    assert_eq!(settings.validate(), Ok(()));
    assert_eq!(settings.deregistration_delay, seconds(300));
    assert_eq!((settings.interval, settings.timeout), (seconds(30), seconds(5)));
    assert_eq!((settings.healthy_threshold, settings.unhealthy_threshold), (5, 2));
    assert_eq!((settings.idle_timeout, settings.client_keep_alive), (seconds(60), seconds(3600)));
    assert_eq!((settings.slow_start, settings.target_type), (Duration::ZERO, TargetType::Instance));
    assert_eq!((settings.path.as_str(), settings.matcher.to_string().as_str()), ("/", "200"));
}

/// For each setting: its name in the API, how to set it, what is just allowed, and what just is not.
type Limit = (&'static str, fn(&mut Settings, u64), [u64; 2], &'static [u64]);

#[test]
fn each_limit_is_where_aws_has_it() {
    let table: [Limit; 8] = [
        ("deregistration_delay.timeout_seconds", |s, v| s.deregistration_delay = seconds(v), [0, 3600], &[3601]),
        ("slow_start.duration_seconds", |s, v| s.slow_start = seconds(v), [30, 900], &[1, 29, 901]),
        ("HealthCheckIntervalSeconds", |s, v| (s.interval, s.timeout) = (seconds(v), at(2000)), [5, 300], &[4, 301]),
        ("HealthCheckTimeoutSeconds", |s, v| (s.timeout, s.interval) = (seconds(v), seconds(300)), [2, 120], &[1, 121]),
        ("HealthyThresholdCount", |s, v| s.healthy_threshold = v as u32, [2, 10], &[0, 1, 11]),
        ("UnhealthyThresholdCount", |s, v| s.unhealthy_threshold = v as u32, [2, 10], &[0, 1, 11]),
        ("idle_timeout.timeout_seconds", |s, v| s.idle_timeout = seconds(v), [1, 4000], &[0, 4001]),
        ("client_keep_alive.seconds", |s, v| s.client_keep_alive = seconds(v), [60, 604_800], &[59, 604_801]),
    ];
    for (name, set, allowed, not_allowed) in table {
        let with = |value| {
            let mut settings = Settings::default();
            set(&mut settings, value);
            settings.validate()
        };
        for value in allowed {
            assert_eq!(with(value), Ok(()), "{name} = {value}");
        }
        for value in not_allowed {
            let invalid = with(*value).expect_err(name);
            assert_eq!(invalid.setting, name);
            assert!(invalid.value.starts_with(&value.to_string()), "{invalid}");
        }
    }
}

type Spoil = fn(&mut Settings);

#[test]
fn an_error_names_the_value_the_limits_and_the_way_out() {
    let table: [(Spoil, &str); 6] = [
        (
            |s| s.deregistration_delay = at(1500),
            "deregistration_delay.timeout_seconds is 1.5 s, allowed is 0 to 3600 whole seconds: the nearest is 1 s",
        ),
        (
            |s| s.slow_start = seconds(20),
            "slow_start.duration_seconds is 20 s, allowed is 30 to 900 whole seconds: the nearest is 30 s, or 0 for no \
             slow start",
        ),
        (
            |s| s.timeout = seconds(30),
            "HealthCheckTimeoutSeconds is 30 s, allowed is less than HealthCheckIntervalSeconds, which is 30 s: shorten \
             the one or lengthen the other",
        ),
        (|s| s.healthy_threshold = 1, "HealthyThresholdCount is 1, allowed is 2 to 10: the nearest is 2"),
        (
            |s| s.path = "ready".to_owned(),
            "HealthCheckPath is `ready`, allowed is 1 to 1024 bytes, the first of them a slash: give the path of the \
             readiness endpoint, such as `/ready`",
        ),
        (|s| s.path = format!("/{}", "x".repeat(1024)), "HealthCheckPath is `/xxxxxx"),
    ];
    for (spoil, words) in table {
        let mut settings = Settings::default();
        spoil(&mut settings);
        let said = settings.validate().expect_err(words).to_string();
        assert!(said.starts_with(words), "{said}");
    }
}

#[test]
fn a_matcher_is_a_list_of_values_and_ranges() {
    let table: [(&str, &[u16], &[u16]); 4] = [
        ("200", &[200], &[199, 201, 500]),
        ("200,204", &[200, 204], &[201, 203]),
        ("200-299", &[200, 250, 299], &[199, 300]),
        ("200, 302-304 ,499", &[200, 302, 303, 304, 499], &[301, 305]),
    ];
    for (text, good, bad) in table {
        let matcher = Matcher::parse(text).unwrap();
        assert!(good.iter().all(|status| matcher.accepts(*status)), "{text}");
        assert!(!bad.iter().any(|status| matcher.accepts(*status)), "{text}");
        assert_eq!(Matcher::parse(&matcher.to_string()).as_ref(), Ok(&matcher));
    }
    for text in ["", "ok", "199", "500", "200-500", "299-200", "200,", "200-", "-200", "99999", "200;201"] {
        let invalid = Matcher::parse(text).expect_err(text).to_string();
        assert!(invalid.starts_with("Matcher.HttpCode is `") && invalid.contains("from 200 to 499"), "{invalid}");
    }
}

#[test]
fn scaling_makes_all_durations_shorter_and_leaves_the_rest() {
    let settings = Settings { slow_start: seconds(30), ..Settings::default() };
    let fast = settings.scaled(0.01);
    assert_eq!((fast.deregistration_delay, fast.slow_start), (seconds(3), at(300)));
    assert_eq!((fast.interval, fast.timeout), (at(300), at(50)));
    assert_eq!((fast.idle_timeout, fast.client_keep_alive), (at(600), seconds(36)));
    assert_eq!((fast.healthy_threshold, fast.unhealthy_threshold), (5, 2));
    for factor in [1.0, 7.0, f64::INFINITY, f64::NAN] {
        assert_eq!(settings.scaled(factor), settings, "{factor}");
    }
    for factor in [0.0, -3.0, f64::NEG_INFINITY] {
        assert_eq!(settings.scaled(factor), settings.scaled(1e-6), "{factor}");
    }
}

#[test]
fn what_a_client_gets_is_what_aws_documents() {
    let table = [
        (Fault::NoTarget, 503),
        (Fault::NotConnected, 502),
        (Fault::ConnectTimedOut, 504),
        (Fault::Closed, 502),
        (Fault::Malformed, 502),
        (Fault::Silent, 504),
        (Fault::DelayElapsed, 502),
    ];
    for (fault, status) in table {
        assert_eq!(fault.status(), status, "{fault:?}");
        assert_eq!(fault.is_retried(0), fault == Fault::Closed, "{fault:?}: nothing is written yet");
        assert!(!fault.is_retried(1), "{fault:?}: part of it is written");
    }
}
