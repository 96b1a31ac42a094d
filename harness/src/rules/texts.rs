//! Why each rule exists, where it comes from and how to keep it, in each language: kept as data in `texts.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// What a reader wants to know about a rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Why it matters.
    pub why: String,
    /// Where it comes from: RFC sections, Kubernetes documentation, issues.
    pub sources: Vec<String>,
    /// How to keep it, by language.
    pub remedy: BTreeMap<String, String>,
}

static TEXTS: LazyLock<BTreeMap<String, Text>> =
    LazyLock::new(|| toml::from_str(include_str!("texts.toml")).expect("texts.toml is part of the program and tested"));

/// The text of a rule.
pub fn text(slug: &str) -> Option<&'static Text> {
    TEXTS.get(slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_text_and_every_text_a_rule() {
        let rules: Vec<&str> = crate::rules::all().map(|rule| rule.slug).collect();
        for slug in &rules {
            let text = text(slug).unwrap_or_else(|| panic!("texts.toml has no [{slug}]"));
            assert!(!text.why.is_empty() && !text.sources.is_empty(), "[{slug}] lacks why or sources");
            let languages: Vec<&str> = text.remedy.keys().map(String::as_str).collect();
            assert_eq!(languages, ["go", "node", "python", "rust"], "languages of [{slug}.remedy]");
            assert!(text.remedy.values().all(|remedy| !remedy.is_empty()), "[{slug}.remedy] has an empty one");
        }
        for slug in TEXTS.keys() {
            assert!(rules.contains(&slug.as_str()), "texts.toml has [{slug}], which is no rule");
        }
    }
}
