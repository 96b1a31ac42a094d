//! Every rule is marked in every reference server that promises it, and every marker names a rule.

use std::collections::BTreeSet;
use std::path::Path;

use drainspec::catalog::{Kind, Server, discover, markers};
use drainspec::rules::{self, Level};

fn references() -> Vec<Server> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers");
    let servers = discover(&folder).expect("every server.toml is in order");
    servers.into_iter().filter(|server| server.spec.kind == Kind::Reference).collect()
}

#[test]
fn there_is_a_reference_server_in_each_language() {
    let languages: BTreeSet<String> = references().into_iter().map(|server| server.spec.language).collect();
    let four = ["go", "node", "python", "rust"].map(str::to_owned);
    assert_eq!(languages, BTreeSet::from(four), "languages of the reference servers");
}

#[test]
fn every_rule_is_marked_in_every_reference_server() {
    let mut missing = Vec::new();
    let of_one_server = |rule: &&rules::Rule| rule.level != Level::Info && !rules::is_about_fleets(rule.slug);
    for server in references() {
        let marked: BTreeSet<String> = read(&server).into_iter().map(|marker| marker.rule).collect();
        let due = rules::all().filter(of_one_server);
        let unmarked = due.filter(|rule| !marked.contains(rule.slug));
        missing.extend(unmarked.map(|rule| format!("servers/{} has no comment `rule: {}`", server.name, rule.slug)));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_marker_names_a_rule() {
    let mut unknown = Vec::new();
    for server in references() {
        let odd = read(&server).into_iter().filter(|marker| rules::find(&marker.rule).is_none());
        unknown.extend(odd.map(|marker| {
            format!("servers/{}/{}:{}: no rule `{}`", server.name, marker.file.display(), marker.line, marker.rule)
        }));
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

fn read(server: &Server) -> Vec<markers::Marker> {
    markers::read(&server.folder).unwrap_or_else(|error| panic!("{error}"))
}
