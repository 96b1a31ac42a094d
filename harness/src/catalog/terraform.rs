//! Settings of a target group as Terraform has them: the `main.tf` of a folder in, [`Settings`] out.
//!
//! Only what is written out can be read: nothing here evaluates variables, functions or modules. Keys and defaults are
//! those of [`aws_lb_target_group`] and [`aws_lb`].
//!
//! [`aws_lb_target_group`]: https://registry.terraform.io/providers/hashicorp/aws/latest/docs/resources/lb_target_group
//! [`aws_lb`]: https://registry.terraform.io/providers/hashicorp/aws/latest/docs/resources/lb

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hcl_edit::Span;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Attribute, Block, Body};

use super::{CatalogError, read};
use crate::model::target_group::{Invalid, Matcher, Settings, TargetType};

/// The provider sends these where a block `health_check` leaves the thresholds out. Without that block it sends
/// nothing, and the defaults are those of the API, 5 and 2.
const THRESHOLD_IN_A_BLOCK: u32 = 3;

/// What has an effect on an ALB, and none here; beside it the value that is the default, or nothing where every value
/// matters.
const OF_THE_GROUP: [(&str, Option<&str>); 4] = [
    ("load_balancing_algorithm_type", Some("round_robin")),
    ("load_balancing_anomaly_mitigation", Some("off")),
    ("protocol", Some("HTTP")),
    ("protocol_version", Some("HTTP1")),
];
const OF_THE_HEALTH_CHECK: [(&str, Option<&str>); 2] = [("port", Some("traffic-port")), ("protocol", Some("HTTP"))];
const BLOCKS_OF_THE_GROUP: [&str; 3] = ["stickiness", "target_group_health", "target_health_state"];

/// What Terraform would set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terraform {
    /// The settings, which AWS would take.
    pub settings: Settings,
    /// A sentence for each setting that is not in the file, and for each key that has no effect here.
    pub notes: Vec<String>,
}

impl Terraform {
    /// Reads the `main.tf` of this folder.
    ///
    /// # Errors
    /// Names file, line, key, value and the way out: a file that cannot be read or is not HCL; no or several target
    /// groups or load balancers; a value that is not written out; settings that AWS would not take.
    pub fn load(folder: &Path) -> Result<Self, CatalogError> {
        let path = folder.join("main.tf");
        let text = read(&path)?;
        Self::parse(&path, &text)
    }

    /// Reads what is in such a file; the path is for errors only.
    ///
    /// # Errors
    /// As [`Self::load`], but for the reading.
    pub fn parse(path: &Path, text: &str) -> Result<Self, CatalogError> {
        let body = hcl_edit::parser::parse_body(text).map_err(|error| CatalogError::Terraform {
            path: path.to_owned(),
            line: error.location().line(),
            reason: format!("this is not HCL: {}", error.message()),
        })?;
        Reader { path: path.to_owned(), text, notes: Vec::new(), lines: Vec::new() }.settings(&body)
    }
}

struct Reader<'t> {
    path: PathBuf,
    text: &'t str,
    notes: Vec<String>,
    /// On which line each key was found.
    lines: Vec<(&'static str, usize)>,
}

impl Reader<'_> {
    fn settings(mut self, body: &Body) -> Result<Terraform, CatalogError> {
        let group = self.only(body, ["aws_lb_target_group", "aws_alb_target_group"])?;
        let balancer = self.only(body, ["aws_lb", "aws_alb"])?;
        self.application(balancer)?;
        let api = Settings::default();
        let mut settings = Settings {
            target_type: self.target_type(&group.body)?,
            deregistration_delay: self.seconds(&group.body, "deregistration_delay", api.deregistration_delay)?,
            slow_start: self.seconds(&group.body, "slow_start", api.slow_start)?,
            idle_timeout: self.seconds(&balancer.body, "idle_timeout", api.idle_timeout)?,
            client_keep_alive: self.seconds(&balancer.body, "client_keep_alive", api.client_keep_alive)?,
            ..api
        };
        self.health_check(group, &mut settings)?;
        self.without_effect(&group.body, &OF_THE_GROUP);
        for block in group.body.blocks().filter(|block| BLOCKS_OF_THE_GROUP.contains(&block.ident.as_str())) {
            self.notes.push(format!("{} is set, and has no effect here: it is not modelled", block.ident.as_str()));
        }
        match settings.validate() {
            Ok(()) => Ok(Terraform { settings, notes: self.notes }),
            Err(invalid) => Err(self.refused(&invalid)),
        }
    }

    /// The one resource of a type, which has two names.
    fn only<'b>(&self, body: &'b Body, types: [&str; 2]) -> Result<&'b Block, CatalogError> {
        let of_type = |block: &&Block| {
            let label = block.labels.first().map_or("", |label| label.as_str());
            block.ident.as_str() == "resource" && types.contains(&label)
        };
        let found: Vec<&Block> = body.blocks().filter(of_type).collect();
        let [only] = found[..] else {
            let lines: Vec<String> = found.iter().map(|block| self.line(block.span()).to_string()).collect();
            let reason = match lines.len() {
                0 => "there is no such resource: add the one that is to be played".to_owned(),
                some => format!("there are {some} of them, on lines {}: leave one", lines.join(", ")),
            };
            return Err(CatalogError::Value { path: self.path.clone(), key: types[0].to_owned(), reason });
        };
        for key in ["count", "for_each"] {
            if let Some(attribute) = only.body.get_attribute(key) {
                let reason = format!("{} would be several of `{}`: write one out", key, types[0]);
                return Err(self.error(attribute.span(), &reason));
            }
        }
        Ok(only)
    }

    fn application(&self, balancer: &Block) -> Result<(), CatalogError> {
        let Some(attribute) = balancer.body.get_attribute("load_balancer_type") else { return Ok(()) };
        match self.literal(attribute)?.as_str() {
            "application" => Ok(()),
            other => Err(self.value(attribute, &format!("`{other}` is not modelled: only `application` is"))),
        }
    }

    fn target_type(&mut self, group: &Body) -> Result<TargetType, CatalogError> {
        let Some(attribute) = group.get_attribute("target_type") else {
            self.notes.push("target_type is not set: instance, the default".to_owned());
            return Ok(TargetType::Instance);
        };
        match self.literal(attribute)?.as_str() {
            "instance" => Ok(TargetType::Instance),
            "ip" => Ok(TargetType::Ip),
            other => Err(self.value(attribute, &format!("`{other}` is not modelled: `instance` and `ip` are"))),
        }
    }

    fn health_check(&mut self, group: &Block, settings: &mut Settings) -> Result<(), CatalogError> {
        let dynamic = |block: &&Block| block.labels.first().is_some_and(|label| label.as_str() == "health_check");
        if let Some(block) = group.body.get_blocks("dynamic").find(dynamic) {
            return Err(self.error(block.span(), "`dynamic \"health_check\"` cannot be read: write the block out"));
        }
        let blocks: Vec<&Block> = group.body.get_blocks("health_check").collect();
        let body = match blocks[..] {
            [] => {
                let Settings { path, matcher, interval, timeout, .. } = &*settings;
                self.notes.push(format!(
                    "health_check is not set: {path}, {matcher}, every {} s, within {} s, thresholds {} and {}, the \
                     defaults of the API",
                    interval.as_secs(),
                    timeout.as_secs(),
                    settings.healthy_threshold,
                    settings.unhealthy_threshold
                ));
                return Ok(());
            }
            [block] => &block.body,
            [_, second, ..] => return Err(self.error(second.span(), "there is a second `health_check`: leave one")),
        };
        settings.interval = self.seconds(body, "interval", settings.interval)?;
        settings.timeout = self.seconds(body, "timeout", settings.timeout)?;
        settings.healthy_threshold = self.count(body, "healthy_threshold")?;
        settings.unhealthy_threshold = self.count(body, "unhealthy_threshold")?;
        match body.get_attribute("path") {
            Some(attribute) => settings.path = self.found("path", attribute)?,
            None => self.notes.push(format!("path is not set: {}, the default", settings.path)),
        }
        match body.get_attribute("matcher") {
            Some(attribute) => {
                let text = self.found("matcher", attribute)?;
                settings.matcher = Matcher::parse(&text).map_err(|invalid| self.refused(&invalid))?;
            }
            None => self.notes.push(format!("matcher is not set: {}, the default", settings.matcher)),
        }
        self.without_effect(body, &OF_THE_HEALTH_CHECK);
        Ok(())
    }

    fn seconds(&mut self, body: &Body, key: &'static str, default: Duration) -> Result<Duration, CatalogError> {
        let Some(attribute) = body.get_attribute(key) else {
            self.notes.push(format!("{key} is not set: {} s, the default", default.as_secs()));
            return Ok(default);
        };
        let text = self.found(key, attribute)?;
        match text.trim().parse() {
            Ok(seconds) => Ok(Duration::from_secs(seconds)),
            Err(_) => Err(self.value(attribute, &format!("`{text}` is no number of whole seconds: write such as 60"))),
        }
    }

    fn count(&mut self, block: &Body, key: &'static str) -> Result<u32, CatalogError> {
        let Some(attribute) = block.get_attribute(key) else {
            self.notes.push(format!("{key} is not set: {THRESHOLD_IN_A_BLOCK}, the default of Terraform"));
            return Ok(THRESHOLD_IN_A_BLOCK);
        };
        let text = self.found(key, attribute)?;
        text.trim().parse().map_err(|_| self.value(attribute, &format!("`{text}` is no count: write such as 3")))
    }

    fn without_effect(&mut self, body: &Body, keys: &[(&str, Option<&str>)]) {
        for (key, harmless) in keys {
            let Some(attribute) = body.get_attribute(key) else { continue };
            let value = self.literal(attribute).ok();
            if value.as_deref() != *harmless {
                let value = value.unwrap_or_else(|| self.source(attribute).to_owned());
                self.notes.push(format!("{key} is {value}, and has no effect here: it is not modelled"));
            }
        }
    }

    /// The value of a key, whose line is kept in case AWS would not take it.
    fn found(&mut self, key: &'static str, attribute: &Attribute) -> Result<String, CatalogError> {
        self.lines.push((key, self.line(attribute.span())));
        self.literal(attribute)
    }

    /// A number or a string as text: Terraform takes the one for the other.
    fn literal(&self, attribute: &Attribute) -> Result<String, CatalogError> {
        match &attribute.value {
            Expression::Number(number) => Ok(number.value().to_string()),
            Expression::String(text) => Ok(text.as_str().to_owned()),
            _ => {
                let reason = format!("`{}` is not written out: put the value itself here", self.source(attribute));
                Err(self.value(attribute, &reason))
            }
        }
    }

    /// The first line of a value as it stands in the file.
    fn source(&self, attribute: &Attribute) -> &str {
        let text = attribute.value.span().and_then(|span| self.text.get(span)).unwrap_or_default();
        text.trim().lines().next().unwrap_or_default()
    }

    fn refused(&self, invalid: &Invalid) -> CatalogError {
        let Invalid { setting, value, limits, way_out } = invalid;
        let key = key_of(setting);
        let reason = format!("{value} is not allowed, {limits} are: {way_out}");
        match self.lines.iter().find(|(found, _)| *found == key) {
            Some((_, line)) => {
                CatalogError::Terraform { path: self.path.clone(), line: *line, reason: format!("`{key}`: {reason}") }
            }
            None => CatalogError::Value { path: self.path.clone(), key: key.to_owned(), reason },
        }
    }

    fn value(&self, attribute: &Attribute, reason: &str) -> CatalogError {
        self.error(attribute.span(), &format!("`{}`: {reason}", attribute.key.as_str()))
    }

    fn error(&self, span: Option<Range<usize>>, reason: &str) -> CatalogError {
        CatalogError::Terraform { path: self.path.clone(), line: self.line(span), reason: reason.to_owned() }
    }

    fn line(&self, span: Option<Range<usize>>) -> usize {
        let before = span.and_then(|span| self.text.get(..span.start)).unwrap_or_default();
        before.matches('\n').count() + 1
    }
}

/// What Terraform calls a setting of the API.
fn key_of(setting: &'static str) -> &'static str {
    match setting {
        "deregistration_delay.timeout_seconds" => "deregistration_delay",
        "slow_start.duration_seconds" => "slow_start",
        "HealthCheckIntervalSeconds" => "interval",
        "HealthCheckTimeoutSeconds" => "timeout",
        "HealthyThresholdCount" => "healthy_threshold",
        "UnhealthyThresholdCount" => "unhealthy_threshold",
        "HealthCheckPath" => "path",
        "Matcher.HttpCode" => "matcher",
        "idle_timeout.timeout_seconds" => "idle_timeout",
        "client_keep_alive.seconds" => "client_keep_alive",
        other => other,
    }
}
