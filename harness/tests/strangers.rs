//! `drainspec check` tells the truth about strangers: `servers/strangers`, a folder a case, each with its verdicts.
//!
//! `STRANGERS=GLOB` chooses cases, `STRANGERS_SHARD=I/N` every N-th one of them, `STRANGERS_REPEAT=N` plays each so many
//! times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use drainspec::link::Place;
use drainspec::process::Tree;
use serde::Deserialize;
use serde_json::Value;

/// Cases played side by side: most of the time of a check is spent waiting.
const SIDE_BY_SIDE: usize = 4;

/// How often a case is played again of which a busy machine has left something untested.
const REPLAYS: usize = 2;
/// What is wrong then.
const UNTESTED: &str = "exit status Some(5) instead of 0";

/// Longest wait for a program to listen that was started before drainspec.
const SETTLES: Duration = Duration::from_secs(20);

/// A `stranger.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stranger {
    summary: String,
    stands_for: String,
    run: Vec<String>,
    #[serde(default)]
    check: Vec<String>,
    exit: i32,
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    never: Vec<String>,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    load: bool,
    #[serde(default)]
    before: Vec<String>,
    files: Option<u64>,
    verdicts: BTreeMap<String, String>,
}

fn cases() -> Vec<(PathBuf, Stranger)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/strangers").canonicalize().unwrap();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    let read = |folder: PathBuf| {
        let file = folder.join("stranger.toml");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let case = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        (folder, case)
    };
    folders.into_iter().map(read).collect()
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// What only one case at a time may use: the server of another folder to which its command leads, where that has a port
/// that is fixed, else its own folder.
fn server<'c>(folder: &'c Path, case: &'c Stranger) -> &'c str {
    let takes_port = case.run.iter().any(|part| part.contains("{port}"));
    let other = case.run.iter().find_map(|part| part.strip_prefix("../")?.split('/').next());
    other.filter(|_| !takes_port).or_else(|| folder.file_name()?.to_str()).unwrap_or_default()
}

fn is_there(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

/// A program that runs while drainspec does, and is none of its own.
struct Beside(Child);

impl Beside {
    /// Starts it and waits until it listens.
    fn start(folder: &Path, command: &[String]) -> Option<Self> {
        let (program, arguments) = command.split_first()?;
        let mut command_line = Command::new(program);
        // A leader, whose tree is looked at.
        command_line.args(arguments).current_dir(folder).stderr(Stdio::null()).process_group(0);
        let started = Self(command_line.spawn().unwrap());
        let (pid, began) = (started.0.id().cast_signed(), Instant::now());
        while Tree::of(pid, None, &Place::HERE).listening().is_empty() {
            assert!(began.elapsed() < SETTLES, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(started)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is wrong with the report on this stranger, and the report.
fn play(folder: &Path, case: &Stranger) -> (Vec<String>, String) {
    let _beside = Beside::start(folder, &case.before);
    let drainspec = env!("CARGO_BIN_EXE_drainspec");
    let mut command = match case.files {
        None => Command::new(drainspec),
        Some(files) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), drainspec]);
            shell
        }
    };
    let done = command
        .args(["check", "--format", "json"])
        .args(&case.check)
        .args((!case.load).then_some("--without-load"))
        .arg("--")
        .args(&case.run)
        .current_dir(folder)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_str(&out).unwrap_or_default();
    let all = format!("{out}{err}");
    let mut wrong = Vec::new();
    if done.status.code() != Some(case.exit) {
        wrong.push(format!("exit status {:?} instead of {}", done.status.code(), case.exit));
    }
    let mut due = case.verdicts.clone();
    for rule in report["rules"].as_array().into_iter().flatten() {
        let (slug, verdict) = (rule["rule"].as_str().unwrap_or_default(), rule["verdict"].as_str().unwrap_or_default());
        match due.remove(slug) {
            Some(expected) if expected != verdict => {
                wrong.push(format!("{slug}: {verdict} instead of {expected}: {}", rule["actual"]));
            }
            None if verdict == "fail" => wrong.push(format!("{slug}: an unexpected fail: {}", rule["actual"])),
            _ => {}
        }
    }
    wrong.extend(due.keys().map(|rule| format!("{rule} was not judged")));
    wrong.extend(case.says.iter().filter(|text| !all.contains(*text)).map(|text| format!("does not say {text:?}")));
    wrong.extend(case.never.iter().filter(|text| all.contains(*text)).map(|text| format!("says {text:?}")));
    (wrong, all)
}

/// Which part, of how many.
fn part(shard: &str) -> Option<(usize, usize)> {
    let (part, of) = shard.split_once('/')?;
    let (part, of) = (part.parse().ok()?, of.parse().ok()?);
    (1..=of).contains(&part).then_some((part, of))
}

#[test]
fn each_says_what_it_stands_for() {
    let cases = cases();
    assert!(!cases.is_empty());
    for (folder, case) in cases {
        assert!(!case.summary.is_empty() && !case.stands_for.is_empty(), "{}", folder.display());
        let known = |rule: &&String| drainspec::rules::find(rule).is_none();
        let unknown: Vec<_> = case.verdicts.keys().filter(known).collect();
        assert!(unknown.is_empty(), "{}: no rules: {unknown:?}", folder.display());
    }
}

#[test]
fn each_is_judged_as_is_right() {
    let chosen = std::env::var("STRANGERS").unwrap_or_else(|_| "*".to_owned());
    let chosen = globset::Glob::new(&chosen).expect("STRANGERS is a glob").compile_matcher();
    let repeat =
        std::env::var("STRANGERS_REPEAT").map_or(1, |text| text.parse().expect("STRANGERS_REPEAT is a number"));
    let mut cases = cases();
    cases.retain(|(folder, case)| {
        let lacks = case.needs.iter().find(|program| !is_there(program));
        if let Some(program) = lacks {
            println!("{}: left out, there is no {program}", name(folder));
        }
        chosen.is_match(name(folder)) && lacks.is_none()
    });
    if let Ok(shard) = std::env::var("STRANGERS_SHARD") {
        let (part, of) = part(&shard).unwrap_or_else(|| panic!("STRANGERS_SHARD={shard}: 2/4 is the second quarter"));
        let mut place = 0..;
        cases.retain(|_| place.next().is_some_and(|place: usize| place % of == part - 1));
    }
    assert!(!cases.is_empty(), "nothing is chosen");
    let waiting: Mutex<VecDeque<_>> = Mutex::new((0..repeat).flat_map(|_| &cases).collect());
    // No case beside itself, nor beside one that has the same server: some have a port that is fixed.
    let playing: Mutex<BTreeSet<&str>> = Mutex::default();
    let next = || {
        let (mut waiting, mut playing) = (waiting.lock().unwrap(), playing.lock().unwrap());
        let at = waiting.iter().position(|(folder, case)| !playing.contains(server(folder, case)))?;
        let (folder, case) = waiting.remove(at)?;
        playing.insert(server(folder, case));
        Some((folder, case))
    };
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some((folder, case)) = next() {
                    let began = Instant::now();
                    let (mut wrong, mut report) = play(folder, case);
                    // What a busy machine has left untested is played again; a verdict that is wrong is not.
                    for _ in 0..REPLAYS {
                        if !matches!(wrong.as_slice(), [one] if one == UNTESTED) {
                            break;
                        }
                        (wrong, report) = play(folder, case);
                    }
                    playing.lock().unwrap().remove(server(folder, case));
                    let word = if wrong.is_empty() { "ok" } else { "WRONG" };
                    println!("{} {word} {:.1} s", name(folder), began.elapsed().as_secs_f64());
                    if !wrong.is_empty() {
                        println!("{report}");
                        failed.lock().unwrap().push(format!("{}:\n  {}", name(folder), wrong.join("\n  ")));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
