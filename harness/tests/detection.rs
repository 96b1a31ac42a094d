//! Every rule has a server that breaks it on purpose: `servers/faulty`. What is held here is that each is there
//! and says what it breaks; that the harness notices is for the matrix to show.

use std::collections::BTreeSet;
use std::path::Path;

use drainspec::catalog::{Kind, Known, KnownVerdict, Server, discover};
use drainspec::rules::{self, Level};
use drainspec::scenario;

/// The program behind them, as their folders see it.
const MUTANT: &str = "../mutant/main.py";

fn faulty() -> Vec<Server> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers");
    let servers = discover(&folder).expect("every server.toml and known.toml is in order");
    servers.into_iter().filter(|server| server.spec.kind == Kind::Faulty).collect()
}

/// Scenarios and rules that an entry of `known.toml` covers.
fn covered(known: &Known) -> BTreeSet<(&'static str, &'static str)> {
    let pairs = scenario::all().flat_map(|scenario| scenario.rules.iter().map(|rule| (scenario.slug, *rule)));
    pairs.filter(|(scenario, rule)| known.covers(scenario, rule)).collect()
}

#[test]
fn every_rule_is_broken_by_a_faulty_server() {
    let servers = faulty();
    // What fails only at times proves nothing.
    let always = |known: &&Known| known.verdict == KnownVerdict::Fail;
    let entries = servers.iter().flat_map(|server| &server.known.entries).filter(always);
    let broken: BTreeSet<&str> = entries.flat_map(covered).map(|(_, rule)| rule).collect();
    let due = rules::all().filter(|rule| rule.level != Level::Info);
    let never: Vec<&str> = due.map(|rule| rule.slug).filter(|rule| !broken.contains(rule)).collect();
    assert!(never.is_empty(), "no known.toml below servers/faulty expects these to fail: {}", never.join(", "));
}

#[test]
fn every_fault_breaks_a_rule_and_no_fault_breaks_none() {
    for server in faulty() {
        let harmless = server.name == "faulty/none";
        assert_eq!(server.known.entries.is_empty(), harmless, "servers/{}: what known.toml expects", server.name);
        for known in &server.known.entries {
            assert!(!covered(known).is_empty(), "servers/{}: {:?} matches no rule", server.name, known.pattern);
        }
    }
}

#[test]
fn every_fault_has_its_folder_and_every_folder_its_fault() {
    let table = include_str!("../../servers/faulty/mutant/faults/__init__.py");
    let entries = table.lines().filter_map(|line| line.strip_prefix("        ")?.strip_suffix(','));
    let names: BTreeSet<String> =
        entries.filter_map(|entry| entry.split_once('.')).map(|(_, function)| function.replace('_', "-")).collect();
    assert!(names.contains("none") && names.len() > 30, "the table of faults was read as {names:?}");

    let mut started = BTreeSet::new();
    for server in faulty() {
        let Some([.., program, fault]) = server.spec.run.get(..) else {
            panic!("servers/{}: run is {:?}", server.name, server.spec.run);
        };
        assert_eq!(program, MUTANT, "servers/{}: the program it runs", server.name);
        assert!(names.contains(fault), "servers/{}: there is no fault `{fault}`", server.name);
        if server.name == format!("faulty/{fault}") {
            started.insert(fault.clone());
        }
    }
    let idle: Vec<&String> = names.difference(&started).collect();
    assert!(idle.is_empty(), "no folder below servers/faulty starts {idle:?}");
}
