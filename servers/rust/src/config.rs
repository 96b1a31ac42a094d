//! Configuration: from the environment and CONFIG_FILE, validated before anything is opened.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::RwLock;
use std::time::Duration;

use crate::log::log_error;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DrainPolicy {
    Serve,
    Reject,
}

/// Finds a variable: `environment`, or a table in tests.
pub type Lookup = fn(&str) -> Option<String>;

/// A value that is no UTF-8 is still a value: `env::var` would make it look unset.
pub fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    pub host: IpAddr,
    pub port: u16,
    pub admin_host: IpAddr,
    pub admin_port: u16,
    pub shutdown_delay: Duration,
    pub drain_timeout: Duration,
    pub idle_linger: Duration,
    pub drain_policy: DrainPolicy,
    pub max_in_flight: usize,
    pub max_streams: usize,
    pub max_connections: usize,
    pub max_body_bytes: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub close_timeout: Duration,
}

impl Config {
    pub fn load(lookup: Lookup) -> Result<Self, ConfigError> {
        let values = Reader { lookup, overrides: read_config_file(lookup)? };
        let config = Self {
            host: values.address("HOST", "127.0.0.1")?,
            port: values.count("PORT", 8080, 0, 65535)?,
            admin_host: values.address("ADMIN_HOST", "127.0.0.1")?,
            admin_port: values.count("ADMIN_PORT", 9090, 0, 65535)?,
            shutdown_delay: values.duration("SHUTDOWN_DELAY", "0")?,
            drain_timeout: values.duration("DRAIN_TIMEOUT", "30")?,
            idle_linger: values.duration("IDLE_LINGER", "1")?,
            drain_policy: values.policy("DRAIN_POLICY", "serve")?,
            max_in_flight: values.count("MAX_IN_FLIGHT", 100, 1, 1_000_000)?,
            max_streams: values.count("MAX_STREAMS", 100, 1, 1_000_000)?,
            max_connections: values.count("MAX_CONNECTIONS", 10_000, 1, 1_000_000)?,
            max_body_bytes: values.count("MAX_BODY_BYTES", 1 << 20, 0, 1 << 30)?,
            header_timeout: values.positive("HEADER_TIMEOUT", "10")?,
            body_timeout: values.positive("BODY_TIMEOUT", "30")?,
            write_timeout: values.positive("WRITE_TIMEOUT", "30")?,
            keep_alive_timeout: values.positive("KEEP_ALIVE_TIMEOUT", "75")?,
            close_timeout: values.positive("CLOSE_TIMEOUT", "0.5")?,
        };
        if config.idle_linger > config.drain_timeout {
            return Err(bad("IDLE_LINGER", values.text("IDLE_LINGER", "1"), "at most DRAIN_TIMEOUT"));
        }
        Ok(config)
    }

    /// The names of the variables that hold something else in the other one.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("HOST", self.host != other.host),
            ("PORT", self.port != other.port),
            ("ADMIN_HOST", self.admin_host != other.admin_host),
            ("ADMIN_PORT", self.admin_port != other.admin_port),
            ("SHUTDOWN_DELAY", self.shutdown_delay != other.shutdown_delay),
            ("DRAIN_TIMEOUT", self.drain_timeout != other.drain_timeout),
            ("IDLE_LINGER", self.idle_linger != other.idle_linger),
            ("DRAIN_POLICY", self.drain_policy != other.drain_policy),
            ("MAX_IN_FLIGHT", self.max_in_flight != other.max_in_flight),
            ("MAX_STREAMS", self.max_streams != other.max_streams),
            ("MAX_CONNECTIONS", self.max_connections != other.max_connections),
            ("MAX_BODY_BYTES", self.max_body_bytes != other.max_body_bytes),
            ("HEADER_TIMEOUT", self.header_timeout != other.header_timeout),
            ("BODY_TIMEOUT", self.body_timeout != other.body_timeout),
            ("WRITE_TIMEOUT", self.write_timeout != other.write_timeout),
            ("KEEP_ALIVE_TIMEOUT", self.keep_alive_timeout != other.keep_alive_timeout),
            ("CLOSE_TIMEOUT", self.close_timeout != other.close_timeout),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// One line for the operator: which variable, what it holds, what it may hold.
#[derive(Debug)]
pub struct ConfigError {
    variable: String,
    value: String,
    allowed: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} is not allowed: expected {}", self.variable, self.value, self.allowed)
    }
}

fn bad(variable: &str, value: String, allowed: &str) -> ConfigError {
    ConfigError { variable: variable.to_owned(), value, allowed: allowed.to_owned() }
}

/// Turns text into values.
struct Reader {
    lookup: Lookup,
    overrides: HashMap<String, String>,
}

impl Reader {
    /// An empty variable counts as unset.
    fn text(&self, name: &str, fallback: &str) -> String {
        let set = |value: &String| !value.is_empty();
        let overridden = self.overrides.get(name).cloned().filter(set);
        overridden.or_else(|| (self.lookup)(name).filter(set)).unwrap_or_else(|| fallback.to_owned())
    }

    fn address(&self, name: &str, fallback: &str) -> Result<IpAddr, ConfigError> {
        let text = self.text(name, fallback);
        text.parse().map_err(|_| bad(name, text, "an IP address"))
    }

    fn count<T: TryFrom<usize>>(&self, name: &str, fallback: usize, low: usize, high: usize) -> Result<T, ConfigError> {
        let text = self.text(name, &fallback.to_string());
        parse_integer(&text, low, high)
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| bad(name, text, &format!("an integer from {low} to {high}")))
    }

    fn duration(&self, name: &str, fallback: &str) -> Result<Duration, ConfigError> {
        let text = self.text(name, fallback);
        parse_seconds(&text, 86400.0).ok_or_else(|| bad(name, text, "decimal seconds from 0 to 86400, like 2 or 0.5"))
    }

    fn positive(&self, name: &str, fallback: &str) -> Result<Duration, ConfigError> {
        let value = self.duration(name, fallback)?;
        if value.is_zero() {
            return Err(bad(name, self.text(name, fallback), "decimal seconds above 0"));
        }
        Ok(value)
    }

    fn policy(&self, name: &str, fallback: &str) -> Result<DrainPolicy, ConfigError> {
        match self.text(name, fallback).as_str() {
            "serve" => Ok(DrainPolicy::Serve),
            "reject" => Ok(DrainPolicy::Reject),
            other => Err(bad(name, other.to_owned(), "serve or reject")),
        }
    }
}

/// Digits only: `parse` alone would take a sign.
pub fn parse_integer(text: &str, low: usize, high: usize) -> Option<usize> {
    let value = text.parse().ok()?;
    (is_digits(text) && (low..=high).contains(&value)).then_some(value)
}

/// Decimal seconds, at most limit: `parse` alone would take a sign, an exponent and infinity.
pub fn parse_seconds(text: &str, limit: f64) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let seconds: f64 = text.parse().ok()?;
    (seconds <= limit).then(|| Duration::from_secs_f64(seconds))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The NAME=value lines of CONFIG_FILE, where one is named.
fn read_config_file(lookup: Lookup) -> Result<HashMap<String, String>, ConfigError> {
    let mut overrides = HashMap::new();
    let Some(path) = lookup("CONFIG_FILE").filter(|path| !path.is_empty()) else {
        return Ok(overrides);
    };
    let text = fs::read_to_string(&path).map_err(|error| {
        let readable = error.kind() == io::ErrorKind::InvalidData;
        bad("CONFIG_FILE", path.clone(), if readable { "lines of text" } else { "a readable file" })
    })?;
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            let place = format!("CONFIG_FILE {path}:{}", index + 1);
            return Err(bad(&place, line.to_owned(), "NAME=value"));
        };
        overrides.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(overrides)
}

/// What SIGHUP can change.
const RELOADABLE: [&str; 6] =
    ["SHUTDOWN_DELAY", "DRAIN_TIMEOUT", "IDLE_LINGER", "DRAIN_POLICY", "MAX_IN_FLIGHT", "MAX_STREAMS"];

/// The configuration in force. Any task may read it; SIGHUP replaces it.
pub struct Settings {
    current: RwLock<Config>,
    lookup: Lookup,
}

impl Settings {
    pub fn new(config: Config, lookup: Lookup) -> Self {
        Self { current: RwLock::new(config), lookup }
    }

    pub fn now(&self) -> Config {
        *self.current.read().unwrap()
    }

    /// Reads the configuration again and returns the names that took effect. After an error all the old
    /// values stay in force.
    pub fn reload(&self) -> Result<Vec<&'static str>, ConfigError> {
        let loaded = Config::load(self.lookup)?;
        let mut current = self.current.write().unwrap();
        let (changed, restart): (Vec<_>, Vec<_>) =
            current.differences(&loaded).into_iter().partition(|name| RELOADABLE.contains(name));
        for name in restart {
            log_error(&format!("{name}: a change needs a restart"));
        }
        *current = Config {
            shutdown_delay: loaded.shutdown_delay,
            drain_timeout: loaded.drain_timeout,
            idle_linger: loaded.idle_linger,
            drain_policy: loaded.drain_policy,
            max_in_flight: loaded.max_in_flight,
            max_streams: loaded.max_streams,
            ..*current
        };
        Ok(changed)
    }
}
