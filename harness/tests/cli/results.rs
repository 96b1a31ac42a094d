//! `results.json` is an interface: its schema is written by hand, and holds for what the program writes.

use std::path::Path;

use serde_json::{Value, json};

use drainspec::catalog::Kind;
use drainspec::results::{FORMAT, Results};
use drainspec::rules::{Basis, Level};
use drainspec::verdict::Verdict;
use jsonschema::Validator;

use crate::servers::{GOOD, Servers, drainspec};

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/results.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn faults(results: &Value) -> Vec<String> {
    let validator: Validator = jsonschema::draft202012::new(&schema()).expect("the schema is a schema");
    validator.iter_errors(results).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// These results are what the schema says.
pub fn assert_valid(results: &Value) {
    assert_eq!(faults(results), Vec::<String>::new(), "{results:#}");
}

/// Two repeats of three servers that differ in their ends, one of them unbuildable.
fn played() -> Servers {
    let servers = Servers::with_good();
    servers.add("rude", &GOOD.replace("sys.exit(0)", "os._exit(3)"));
    servers.add("broken", "sys.exit(3)");
    let mut matrix = servers.matrix("*", "{idle-exit,in-flight-completes}");
    matrix.args(["--repeat", "2"]).assert().code(1);
    servers
}

#[test]
fn what_the_program_writes_is_what_the_schema_says() {
    let servers = played();
    let results = servers.results();
    assert_valid(&results);
    let verdicts: Vec<&str> =
        results["cells"].as_array().unwrap().iter().map(|cell| cell["verdict"].as_str().unwrap()).collect();
    for verdict in ["pass", "warn", "error", "unsupported"] {
        assert!(verdicts.contains(&verdict), "{verdict}: {verdicts:?}");
    }
    assert_eq!(servers.cell("rude")["repeats"], json!({ "pass": 2, "of": 2 }));

    // The program reads what it writes, and writes nothing that it does not read.
    let read: Results = serde_json::from_value(results.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), results);

    // Judged again, the timelines say the same.
    drainspec().arg("judge").arg(servers.out()).assert().success();

    // Where a rule was judged otherwise, though its cell as a whole was not, that is told.
    for (pointer, said) in [("verdict", "pass in results.json, "), ("rule", "not judged in results.json")] {
        let mut other = results.clone();
        let cell = other["cells"].as_array_mut().unwrap().iter_mut().find(|cell| cell["verdict"] == "warn").unwrap();
        let rules = cell["rules"].as_array_mut().unwrap();
        let changed = rules.iter_mut().find(|rule| rule["verdict"] == "warn").unwrap();
        changed[pointer] = json!(if pointer == "verdict" { "pass" } else { "int-like-term" });
        std::fs::write(servers.out().join("results.json"), other.to_string()).unwrap();
        drainspec().arg("judge").arg(servers.out()).assert().code(1).stdout(predicates::str::contains(said));
    }
}

/// What is wrong, and how to make it so.
type Breakage = (&'static str, fn(&mut Value));

#[test]
fn results_that_are_not_in_order_are_refused() {
    let servers = Servers::with_good();
    servers.matrix("good", "idle-exit").assert().success();
    let good = servers.results();
    assert_valid(&good);
    let broken: &[Breakage] = &[
        ("no cells", |results| drop(results.as_object_mut().unwrap().remove("cells"))),
        ("another format", |results| results["format"] = json!(FORMAT + 1)),
        ("an unknown key", |results| results["colour"] = json!("red")),
        ("a date that is none", |results| results["started"] = json!("yesterday")),
        ("an unknown verdict", |results| results["cells"][0]["verdict"] = json!("perfect")),
        ("an unknown kind", |results| results["cells"][0]["kind"] = json!("good")),
        ("an unknown key of a cell", |results| results["cells"][0]["colour"] = json!("red")),
        ("no verdict", |results| drop(results["cells"][0].as_object_mut().unwrap().remove("verdict"))),
        ("a string for a number", |results| results["cells"][0]["duration_ms"] = json!("12")),
        ("a negative duration", |results| results["cells"][0]["duration_ms"] = json!(-1)),
        ("no repeat", |results| results["cells"][0]["repeats"]["of"] = json!(0)),
        ("a measure that is no list", |results| results["cells"][0]["measures"]["x_ms"] = json!(1)),
        ("an unknown level", |results| results["cells"][0]["rules"][0]["level"] = json!("COULD")),
        ("an unknown basis", |results| results["cells"][0]["rules"][0]["basis"] = json!("taste")),
        ("a rule without a slug", |results| results["cells"][0]["rules"][0]["rule"] = json!("Two Words")),
        ("a rule that saw nothing", |results| results["cells"][0]["rules"][0]["actual"] = json!(null)),
        ("an absolute timeline", |results| results["cells"][0]["timelines"][0] = json!("/etc/passwd")),
    ];
    for (what, breaks) in broken {
        let mut results = good.clone();
        breaks(&mut results);
        assert_ne!(results, good, "{what}: nothing was broken");
        assert!(!faults(&results).is_empty(), "{what}: accepted");
    }
}

/// The words of an enumeration in the schema.
fn words(pointer: &str) -> Vec<String> {
    let schema = schema();
    let words = schema.pointer(pointer).unwrap_or_else(|| panic!("the schema has no {pointer}"));
    let mut words: Vec<String> = serde_json::from_value(words.clone()).unwrap();
    words.sort();
    words
}

fn sorted(values: &[impl serde::Serialize]) -> Vec<String> {
    let mut words: Vec<String> =
        values.iter().map(|value| serde_json::from_value(serde_json::to_value(value).unwrap()).unwrap()).collect();
    words.sort();
    words
}

#[test]
fn the_schema_has_the_words_of_the_program() {
    assert_eq!(words("/$defs/verdict/enum"), sorted(&Verdict::BY_SEVERITY));
    let kinds = [Kind::Reference, Kind::Naive, Kind::Framework, Kind::Adopted, Kind::Faulty];
    assert_eq!(words("/$defs/cell/properties/kind/enum"), sorted(&kinds));
    let levels = [Level::Must, Level::Should, Level::Info];
    assert_eq!(words("/$defs/rule/properties/level/enum"), sorted(&levels));
    assert_eq!(words("/$defs/rule/properties/basis/enum"), sorted(&[Basis::Wire, Basis::Contract]));
    assert_eq!(schema()["properties"]["format"]["const"], FORMAT);
}

/// Every key that the program writes is described, and none that it does not write.
#[test]
fn the_schema_has_the_keys_of_the_program() {
    let servers = Servers::with_good();
    servers.matrix("good", "idle-exit").assert().success();
    let results = servers.results();
    let schema = schema();
    let cell = &results["cells"][0];
    for (at, value) in [
        ("", &results),
        ("/$defs/cell", cell),
        ("/$defs/rule", &cell["rules"][0]),
        ("/$defs/cell/properties/repeats", &cell["repeats"]),
    ] {
        let object = schema.pointer(at).unwrap();
        let described: Vec<&String> = object["properties"].as_object().unwrap().keys().collect();
        let mut written: Vec<&String> = value.as_object().unwrap().keys().collect();
        written.sort();
        let mut sorted = described.clone();
        sorted.sort();
        assert_eq!(sorted, written, "{at}");
        let mut required: Vec<String> = serde_json::from_value(object["required"].clone()).unwrap();
        required.sort();
        assert_eq!(required.iter().collect::<Vec<_>>(), written, "{at}: all of them are always there");
        assert_eq!(object["additionalProperties"], false, "{at}");
        for key in described {
            let text = object["properties"][key]["description"].as_str();
            assert!(text.is_some_and(|text| text.ends_with('.')), "{at}: {key} is not described in a sentence");
        }
    }
}

/// A measure is named where it is taken, and nowhere else: its source is asked.
#[test]
fn the_schema_describes_every_measure_with_its_unit() {
    let source = include_str!("../../src/measures.rs");
    // Those of one process are put one by one; those of a fleet are a table.
    let after = |start: &'static str| source.split(start).skip(1).filter_map(|rest| rest.split('"').next());
    let mut taken: Vec<&str> = after("put(\"").chain(after("        (\"")).collect();
    taken.sort_unstable();
    taken.dedup();
    let schema = schema();
    let described = schema.pointer("/$defs/cell/properties/measures/properties").unwrap().as_object().unwrap();
    let mut names: Vec<&str> = described.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, taken);
    for (name, measure) in described {
        let text = measure["description"].as_str().unwrap_or_default();
        assert_eq!(name.ends_with("_ms"), text.ends_with("in milliseconds."), "{name}: {text}");
    }
}
