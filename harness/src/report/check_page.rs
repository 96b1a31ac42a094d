//! What a check came to, as a page in Markdown.

use std::fmt::Write;

use super::check::{Topic, left_out, to_test, topics, totals, untold};
use crate::check::CheckResults;
use crate::verdict::Verdict;

/// The page.
pub fn check_page(results: &CheckResults) -> String {
    let mut out = header(results);
    for topic in topics(results) {
        tell(&mut out, &topic);
    }
    not_tested(&mut out, results);
    let _ = write!(out, "\n## All rules\n\n| rule | level | verdict | scenario | seen |\n|---|---|---|---|---|\n");
    for rule in &results.rules {
        let known = if rule.known { ", known" } else { "" };
        let actual = rule.actual.replace('|', "\\|");
        let (level, verdict) = (rule.level.word(), word(rule.verdict));
        let _ = writeln!(out, "| `{}` | {level} | {verdict}{known} | `{}` | {actual} |", rule.rule, rule.scenario);
    }
    out
}

fn header(results: &CheckResults) -> String {
    let machine = |key: &str| results.machine.get(key).map_or("unknown", String::as_str);
    let profile = serde_json::to_value(results.profile).ok();
    let mut out = format!(
        "# Check: `{}`\n\n<!-- Written by `drainspec report`. -->\n\n**{}**\n\n{}. Checked on {} by drainspec {} on {} {}, {}, {} cores, with the profile {} and a grace of {} s.\n\n",
        results.command.join(" "),
        results.deploy,
        totals(results),
        results.ended.get(..10).unwrap_or_default(),
        results.version,
        machine("os"),
        machine("kernel"),
        machine("arch"),
        machine("cores"),
        profile.as_ref().and_then(|profile| profile.as_str()).unwrap_or_default(),
        results.grace_s,
    );
    for words in results.notes.iter().chain(&results.learned) {
        let _ = writeln!(out, "- {words}");
    }
    out
}

fn word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Fail => "**fail**".to_owned(),
        verdict => verdict.word().to_owned(),
    }
}

fn tell(out: &mut String, topic: &Topic) {
    let rule = topic.lead;
    let title = topic.what.map_or(format!("`{}`", rule.rule), |cause| cause.what.clone());
    let known = if rule.known { ", known" } else { "" };
    let _ = writeln!(out, "\n## {}{known}: {title}\n", topic.verdict.word());
    let _ = writeln!(out, "- Rule: `{}` ({}), in `{}`", rule.rule, rule.level.word(), rule.scenario);
    let _ = writeln!(out, "- Expected: {}\n- Seen: {}", rule.expected, rule.actual);
    if let Some((remedy, source)) = topic.remedy() {
        let source = source.map_or(String::new(), |source| format!(" <{source}>"));
        let _ = writeln!(out, "- Remedy: {remedy}{source}");
    }
    for rule in &topic.follows {
        let _ = writeln!(out, "- Follows from it: {} `{}`: {}", word(rule.verdict), rule.rule, rule.actual);
    }
    if !rule.excerpt.is_empty() {
        let _ = writeln!(out, "\n```text\n{}\n```", rule.excerpt.join("\n"));
    }
}

fn not_tested(out: &mut String, results: &CheckResults) {
    let _ = writeln!(out, "\n## Not tested\n");
    for reason in results.errors.iter().chain(&results.skipped) {
        let _ = writeln!(out, "- {reason}");
    }
    for rule in results.not_judged() {
        let _ = writeln!(out, "- `{rule}`, which `--fail-on` names, was not judged");
    }
    for (reason, rules) in untold(results) {
        let names: Vec<String> = rules.iter().map(|rule| format!("`{}`", rule.rule)).collect();
        let how = to_test(results, reason, &rules).map_or(String::new(), |how| format!("; {how}"));
        let _ = writeln!(out, "- {}: {reason}{how}", names.join(", "));
    }
    for (option, scenarios) in left_out(results) {
        let _ = writeln!(out, "- With `{option}`: {}", scenarios.join(", "));
    }
    if !results.left_out.is_empty() {
        let _ = writeln!(out, "- Without `--without-load`: {}", results.left_out.join(", "));
    }
    let _ = writeln!(out, "- By no check: {}", results.untestable.join(", "));
}
