//! What can be set, and within which limits.

use std::fmt::{Display, Formatter};
use std::time::Duration;

/// Settings of a target group, and those of its load balancer that matter to it. The defaults are those of AWS.
///
/// Sources: [target group attributes], [health checks], [load balancer attributes].
///
/// [target group attributes]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html
/// [health checks]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html#health-check-settings
/// [load balancer attributes]: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_LoadBalancerAttribute.html
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How targets are registered.
    pub target_type: TargetType,
    /// How long a deregistered target is `draining`: 0 to 3600 s.
    pub deregistration_delay: Duration,
    /// How long a target that has become healthy gets less than its share: 30 to 900 s, or 0 for not at all.
    pub slow_start: Duration,
    /// From one health check to the next, by the same node: 5 to 300 s.
    pub interval: Duration,
    /// How long a health check waits for its answer: 2 to 120 s, and less than the interval.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy target healthy: 2 to 10.
    pub healthy_threshold: u32,
    /// Failures in a row that make a target unhealthy: 2 to 10.
    pub unhealthy_threshold: u32,
    /// What a health check asks for.
    pub path: String,
    /// Which statuses are a success.
    pub matcher: Matcher,
    /// How long a connection, to a client or to a target, may be silent before the node closes it: 1 to 4000 s.
    pub idle_timeout: Duration,
    /// How old a connection to a client may become: 60 to 604800 s.
    pub client_keep_alive: Duration,
}

/// How targets are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetType {
    /// By instance. A draining one can be registered again at any time.
    Instance,
    /// By address, as ECS does for tasks with a network interface of their own and Kubernetes for pods. It cannot be
    /// registered again [before the deregistration delay is over].
    ///
    /// [before the deregistration delay is over]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-register-targets.html
    Ip,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            target_type: TargetType::Instance,
            deregistration_delay: Duration::from_secs(300),
            slow_start: Duration::ZERO,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            path: "/".to_owned(),
            matcher: Matcher::default(),
            idle_timeout: Duration::from_secs(60),
            client_keep_alive: Duration::from_secs(3600),
        }
    }
}

impl Settings {
    /// Whether AWS would take these settings.
    ///
    /// # Errors
    /// The first that it would not.
    pub fn validate(&self) -> Result<(), Invalid> {
        seconds("deregistration_delay.timeout_seconds", self.deregistration_delay, 0, 3600)?;
        if self.slow_start > Duration::ZERO {
            seconds("slow_start.duration_seconds", self.slow_start, 30, 900).map_err(|invalid| Invalid {
                way_out: format!("{}, or 0 for no slow start", invalid.way_out),
                ..invalid
            })?;
        }
        seconds("HealthCheckIntervalSeconds", self.interval, 5, 300)?;
        seconds("HealthCheckTimeoutSeconds", self.timeout, 2, 120)?;
        if self.timeout >= self.interval {
            return Err(Invalid {
                setting: "HealthCheckTimeoutSeconds",
                value: spoken(self.timeout),
                limits: format!("less than HealthCheckIntervalSeconds, which is {}", spoken(self.interval)),
                way_out: "shorten the one or lengthen the other".to_owned(),
            });
        }
        count("HealthyThresholdCount", self.healthy_threshold, 2, 10)?;
        count("UnhealthyThresholdCount", self.unhealthy_threshold, 2, 10)?;
        if !self.path.starts_with('/') || self.path.len() > 1024 {
            return Err(Invalid {
                setting: "HealthCheckPath",
                value: format!("`{}`", self.path.chars().take(40).collect::<String>()),
                limits: "1 to 1024 bytes, the first of them a slash".to_owned(),
                way_out: "give the path of the readiness endpoint, such as `/ready`".to_owned(),
            });
        }
        self.matcher.validate()?;
        seconds("idle_timeout.timeout_seconds", self.idle_timeout, 1, 4000)?;
        seconds("client_keep_alive.seconds", self.client_keep_alive, 60, 604_800)
    }

    /// The same settings with every duration multiplied, so that nobody has to wait for 300 s: by 0.01 all of it is a
    /// hundred times as fast. Thresholds stay. The factor lies between 1e-6 and 1; what is beyond either end counts as
    /// that end, and what is no number as 1. What is scaled need not be valid any more: validate first.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let factor = if factor.is_nan() { 1.0 } else { factor.clamp(1e-6, 1.0) };
        let scale =
            |duration: Duration| Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX);
        Self {
            deregistration_delay: scale(self.deregistration_delay),
            slow_start: scale(self.slow_start),
            interval: scale(self.interval),
            timeout: scale(self.timeout),
            idle_timeout: scale(self.idle_timeout),
            client_keep_alive: scale(self.client_keep_alive),
            ..self.clone()
        }
    }

    /// When a connection on which nothing has moved since then is closed by the node.
    pub fn idle_until(&self, last_used: Duration) -> Duration {
        last_used.saturating_add(self.idle_timeout)
    }

    /// Whether the answer to a request that comes now is the last on a client's connection: once it has been open for
    /// [`client_keep_alive`](Self::client_keep_alive), [one more request is answered], with `Connection: close`.
    ///
    /// [one more request is answered]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html#http-client-keep-alive-duration
    pub fn is_last_for_client(&self, opened: Duration, now: Duration) -> bool {
        now >= opened.saturating_add(self.client_keep_alive)
    }

    /// When the next check is due after one that was due at `at`, so that it lies in the future: the interval does not
    /// depend on how long an answer takes. Less than a millisecond is no interval, and more than a day is a day.
    pub(super) fn next_check(&self, at: Duration, now: Duration) -> Duration {
        let interval = self.interval.clamp(Duration::from_millis(1), Duration::from_secs(86_400));
        let into = now.saturating_sub(at).as_nanos() % interval.as_nanos();
        let into = Duration::from_nanos(u64::try_from(into).unwrap_or(0));
        now.max(at).saturating_sub(into).saturating_add(interval)
    }
}

/// Statuses that are a success for a health check: [values and ranges from 200 to 499], such as `200,202-204`.
///
/// [values and ranges from 200 to 499]: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_Matcher.html
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    ranges: Vec<(u16, u16)>,
}

impl Default for Matcher {
    fn default() -> Self {
        Self { ranges: vec![(200, 200)] }
    }
}

impl Matcher {
    /// Reads it as AWS writes it.
    ///
    /// # Errors
    /// What is no list of values and ranges, or lies outside of the limits.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        let matcher = Self { ranges: ranges.ok_or_else(|| Self::invalid(text.to_owned()))? };
        matcher.validate()?;
        Ok(matcher)
    }

    /// Whether a target that answers with this status is healthy.
    pub fn accepts(&self, status: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    fn validate(&self) -> Result<(), Invalid> {
        let valid = |(first, last): &(u16, u16)| 200 <= *first && first <= last && *last <= 499;
        if self.ranges.iter().all(valid) { Ok(()) } else { Err(Self::invalid(self.to_string())) }
    }

    fn invalid(text: String) -> Invalid {
        Invalid {
            setting: "Matcher.HttpCode",
            value: format!("`{text}`"),
            limits: "values and ranges from 200 to 499, separated by commas".to_owned(),
            way_out: "write it as `200`, `200,202` or `200-299`".to_owned(),
        }
    }
}

impl Display for Matcher {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A setting that AWS would not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Its name in the API of AWS.
    pub setting: &'static str,
    /// What it was set to.
    pub value: String,
    /// What is allowed.
    pub limits: String,
    /// What to do.
    pub way_out: String,
}

impl Display for Invalid {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { setting, value, limits, way_out } = self;
        write!(f, "{setting} is {value}, allowed is {limits}: {way_out}")
    }
}

impl std::error::Error for Invalid {}

/// Whole seconds, as the API takes them.
fn seconds(setting: &'static str, value: Duration, least: u64, most: u64) -> Result<(), Invalid> {
    let nearest = value.as_secs().clamp(least, most);
    if value == Duration::from_secs(nearest) {
        return Ok(());
    }
    Err(Invalid {
        setting,
        value: spoken(value),
        limits: format!("{least} to {most} whole seconds"),
        way_out: format!("the nearest is {nearest} s"),
    })
}

fn count(setting: &'static str, value: u32, least: u32, most: u32) -> Result<(), Invalid> {
    let nearest = value.clamp(least, most);
    if value == nearest {
        return Ok(());
    }
    Err(Invalid {
        setting,
        value: value.to_string(),
        limits: format!("{least} to {most}"),
        way_out: format!("the nearest is {nearest}"),
    })
}

fn spoken(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
