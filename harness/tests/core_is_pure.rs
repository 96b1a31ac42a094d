//! The core decides from a timeline alone. It can do so because it touches nothing of the world: no clock, no
//! socket, no file, no process. This test reads its source and says where that is no longer true.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules of the crate that are the core; all others are the world.
const CORE: [&str; 10] = [
    "timeline",
    "rules",
    "verdict",
    "measures",
    "model",
    "rollout/tally",
    "rollout/pods",
    "rollout/causes",
    "rollout/advice",
    "rollout/patch",
];
/// Crates that turn text into values and back, and nothing else.
const CRATES: [&str; 4] = ["serde", "serde_json", "thiserror", "toml"];
/// What the core may use of the standard library: no HashMap, whose order differs from run to run. The last segment
/// names a thing, so that no module with more behind it comes in by a short name.
const STANDARD: [&str; 13] = [
    "cmp::Ordering",
    "cmp::Reverse",
    "collections::BTreeMap",
    "collections::BTreeSet",
    "collections::VecDeque",
    "error::Error",
    "fmt::Display",
    "fmt::Formatter",
    "fmt::Result",
    "iter::once",
    "ops::Deref",
    "sync::LazyLock",
    "time::Duration",
];
/// What the reader may use on top of that: it reads from whatever it is given.
const READER: [&str; 5] = ["io::BufRead", "io::Cursor", "io::Error", "io::ErrorKind", "io::Read"];
/// Macros that write to the process's own streams.
const PRINTING: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

#[test]
fn the_core_uses_nothing_of_the_world() {
    let guard = Guard::of_this_crate();
    let files = core_files();
    assert!(files.len() >= 8, "only {} files of the core were found: has it moved?", files.len());
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let reader = path.ends_with("timeline/read.rs");
        found.extend(guard.check(&text, reader).into_iter().map(|fault| format!("{}: {fault}", path.display())));
    }
    assert!(found.is_empty(), "the core reaches into the world:\n{}", found.join("\n"));
}

#[test]
fn the_guard_sees_every_way_into_the_world() {
    let guard = Guard::of_this_crate();
    for line in [
        "use tokio::time::sleep;",
        "use hyper::Request;",
        "use socket2::Socket;",
        "let now = jiff::Timestamp::now();",
        "use std::net::TcpStream;",
        "use std::collections::HashMap;",
        "let seen = std::collections::HashSet::new();",
        "use std::{collections::BTreeMap, net::TcpStream};",
        "use std::process;",
        "std::process::exit(1);",
        "let text = std::fs::read_to_string(path);",
        "use std::time::{Duration, Instant};",
        "let now = ::std::time::SystemTime::now();",
        "use std as s;",
        "use std::*;",
        "use std::time;",
        "use std::io;",
        "let line = std::io::stdin().lines();",
        "use std::io::{self, Read};",
        "let home = std::env::var(\"HOME\");",
        "std::thread::sleep(pause);",
        "use std::sync::Mutex;",
        "use crate::process::start;",
        "use crate::client;",
        "use crate::{timeline::View, scenario::Scenario};",
        "use crate::*;",
        "crate::recorder::Recorder::create(header, path)",
        "super::runner::machine()",
        "use super::super::cli;",
        "use crate::{timeline::{Role, View}, catalog::{Kind, Server}};",
        "fn f(report: &crate::report::Progress) {}",
        "extern crate libc;",
        "println!(\"{finding:?}\");",
        "dbg!(view);",
        "let c = 'x'; let t = tokio::time::Instant::now(); // 'y'",
    ] {
        assert!(!guard.check(line, false).is_empty(), "passed: {line}");
    }
    assert!(!guard.check("use std::fs::File;", true).is_empty(), "the reader may not open files");
    assert!(!guard.check("use std::io::stdin;", true).is_empty(), "the reader reads what it is given");
}

#[test]
fn the_guard_accuses_nobody_who_is_pure() {
    let guard = Guard::of_this_crate();
    for line in [
        "use std::collections::BTreeMap;",
        "use crate::timeline::{Role, View};",
        "use super::{Basis, Finding};",
        "use serde::{Deserialize, Serialize};",
        "#[derive(thiserror::Error)]",
        "// tokio::time::sleep would be the world",
        "/* std::fs, and /* nested */ std::net */",
        "let text = \"std::fs::read\";",
        "let text = r#\"use tokio::net;\"#;",
        "let quote = '\"'; let slash = '\\\\'; fn f<'t>(t: &'t str) {}",
        "use Verdict::*;",
        "assert!(matches!(process.exited, Some(_)));",
        "view.process().map(|process| process.signalled());",
    ] {
        assert_eq!(guard.check(line, false), Vec::<String>::new(), "{line}");
    }
    assert_eq!(guard.check("use std::io::{BufRead, Read};", true), Vec::<String>::new());
    assert_eq!(guard.check("Io(#[from] std::io::Error)", true), Vec::<String>::new());
}

/// Knows what belongs to the world.
struct Guard {
    /// Crates that the harness depends on, apart from [`CRATES`].
    crates: BTreeSet<String>,
    /// Modules of this crate, apart from [`CORE`].
    modules: BTreeSet<String>,
}

impl Guard {
    /// From the manifest and the root of the crate, so that what is added there is guarded from the start.
    fn of_this_crate() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
        let mut crates = BTreeSet::new();
        collect_dependencies(&manifest, &mut crates);
        assert!(crates.contains("tokio") && crates.contains("netlink_sys"), "dependencies: {crates:?}");
        crates.retain(|name| !CRATES.contains(&name.as_str()));

        let library = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
        let modules = library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
        let modules: BTreeSet<String> = modules.filter(|name| !CORE.contains(name)).map(str::to_owned).collect();
        assert!(modules.contains("process") && modules.contains("client"), "modules: {modules:?}");
        Self { crates, modules }
    }

    /// What a source text uses that it must not.
    fn check(&self, text: &str, reader: bool) -> Vec<String> {
        let tokens = tokens(text);
        let mut faults = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let mut paths = Vec::new();
            let token = tokens[at].as_str();
            if token == "extern" {
                faults.push("`extern`".to_owned());
                at += 1;
            } else if token == "use" {
                at = use_tree(&tokens, at + 1, &[], &mut paths);
            } else if is_name(token) {
                let printing = PRINTING.contains(&token) && tokens.get(at + 1).is_some_and(|next| next == "!");
                if printing {
                    faults.push(format!("`{token}!`"));
                }
                let mut path = vec![tokens[at].clone()];
                at += 1;
                while tokens.get(at).is_some_and(|t| t == "::") && tokens.get(at + 1).is_some_and(|t| is_name(t)) {
                    path.push(tokens[at + 1].clone());
                    at += 2;
                }
                if path.len() > 1 {
                    paths.push(path);
                }
            } else {
                at += 1;
            }
            let of_the_world = paths.into_iter().filter(|path| self.is_of_the_world(path, reader));
            faults.extend(of_the_world.map(|path| format!("`{}`", path.join("::"))));
        }
        faults
    }

    fn is_of_the_world(&self, path: &[String], reader: bool) -> bool {
        let second = path.get(1).map_or("", String::as_str);
        match path[0].as_str() {
            "std" | "core" | "alloc" => {
                let what = path[1..path.len().min(3)].join("::");
                let allowed = STANDARD.contains(&what.as_str()) || (reader && READER.contains(&what.as_str()));
                !allowed
            }
            "crate" => !CORE.contains(&second),
            "super" => second == "super" || self.modules.contains(second),
            root => self.crates.contains(root),
        }
    }
}

/// All tables of dependencies, those of a target too.
fn collect_dependencies(table: &toml::Table, crates: &mut BTreeSet<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            crates.extend(inner.keys().map(|name| name.replace('-', "_")));
        } else {
            collect_dependencies(inner, crates);
        }
    }
}

fn core_files() -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for module in CORE {
        let (file, folder) = (source.join(format!("{module}.rs")), source.join(module));
        assert!(file.is_file() || folder.is_dir(), "no module `{module}`");
        files.extend(Some(file).filter(|file| file.is_file()));
        if folder.is_dir() {
            collect_files(&folder, &mut files);
        }
    }
    files
}

fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Expands `a::{b, c::{d, e}}` into its paths; returns where the tree ends.
fn use_tree(tokens: &[String], mut at: usize, prefix: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "as" => at += 2,
            "self" if !prefix.is_empty() => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = use_tree(tokens, at, &path, paths);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            name if is_name(name) || name == "*" => {
                path.push(token.clone());
                at += 1;
            }
            _ => break,
        }
    }
    paths.push(path);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c == '_' || c.is_alphabetic())
}

/// Names, `::` and single characters; comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else if is_name(rest) {
            let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    let body = hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let length = body.find(&end)? + end.len();
    Some(text.len() - body.len() + length)
}

/// A character such as `'"'`, or the quote before a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => text[3..].find('\'').map_or(text.len(), |at| at + 4),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}
