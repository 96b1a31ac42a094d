//! Programs that are recognised, and what is said to those who use them: kept as data in `programs.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::process::command_line;

/// Words of a command line that may name what runs: `node /usr/bin/npm run start` says it in the second.
const WORDS: usize = 3;
/// How far above a script its package.json is looked for.
const FOLDERS: usize = 8;

/// A program that starts another one and waits for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launcher {
    /// What it is called.
    pub name: String,
    /// First words of its command line, such as `npm` or `go run`.
    command: Vec<String>,
    /// How the signal gets to the server.
    pub way_out: String,
    /// Where that is documented.
    pub source: String,
}

/// What a server is made with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    /// What it is called.
    pub name: String,
    /// Its language.
    pub language: String,
    /// Words of a command line: a program, a script, a module after `-m`, a title.
    #[serde(default)]
    command: Vec<String>,
    /// Dependencies in package.json.
    #[serde(default)]
    packages: Vec<String>,
    /// Modules in the build information of a Go binary.
    #[serde(default)]
    modules: Vec<String>,
    /// Crates whose source paths a Rust binary holds.
    #[serde(default)]
    crates: Vec<String>,
    /// What the .jar file on the command line holds.
    #[serde(default)]
    jar: Vec<String>,
    /// What the `Server` field of its responses contains.
    #[serde(default)]
    header: Vec<String>,
    /// The signal that drains it, where that is not SIGTERM.
    pub stop: Option<String>,
    /// Whether what is said to those who use the language alone is true here.
    #[serde(default)]
    plain: bool,
    /// Where its options are documented.
    source: String,
    /// What to do about a rule that is broken.
    #[serde(default)]
    remedy: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    launcher: Vec<Launcher>,
    framework: Vec<Framework>,
    /// For whoever cannot do what the remedy of the language wants: by rule.
    anybody: BTreeMap<String, String>,
}

static PROGRAMS: LazyLock<File> = LazyLock::new(|| {
    toml::from_str(include_str!("programs.toml")).expect("programs.toml is part of the program and tested")
});

/// What a leader is, by its command line.
pub fn launcher(command: &[String]) -> Option<&'static Launcher> {
    let words = words(command);
    let starts = |wanted: &str| {
        let wanted: Vec<&str> = wanted.split(' ').collect();
        // An interpreter comes before the script: node /usr/bin/npm.
        (0..words.len().min(2)).any(|from| {
            words[from..].len() >= wanted.len()
                && wanted.iter().zip(&words[from..]).all(|(wanted, word)| wanted == word)
        })
    };
    PROGRAMS.launcher.iter().find(|launcher| launcher.command.iter().any(|wanted| starts(wanted)))
}

/// What a server is made with: by its command line, its package.json, its binary, and at last by its `Server` field.
pub fn framework(pid: i32, header: Option<&str>) -> Option<&'static Framework> {
    let command = command_line(pid);
    let evidence = Evidence {
        words: words(&command).into_iter().take(WORDS).collect(),
        packages: packages(pid, &command),
        binary: binary(pid, &command),
        header: header.unwrap_or_default().to_lowercase(),
    };
    PROGRAMS
        .framework
        .iter()
        .find(|f| evidence.names(f))
        .or_else(|| PROGRAMS.framework.iter().find(|f| evidence.admits(f)))
}

struct Evidence {
    words: Vec<String>,
    packages: Vec<String>,
    binary: Vec<u8>,
    header: String,
}

impl Evidence {
    fn names(&self, framework: &Framework) -> bool {
        let holds = |needle: &str| memchr::memmem::find(&self.binary, needle.as_bytes()).is_some();
        framework.command.iter().any(|wanted| self.words.contains(wanted))
            || framework.packages.iter().any(|wanted| self.packages.contains(wanted))
            || framework.modules.iter().any(|module| holds(&format!("dep\t{module}\t")))
            || framework.crates.iter().any(|name| (0..10).any(|major| holds(&format!("/{name}-{major}."))))
            || framework.jar.iter().any(|entry| holds(entry))
    }

    fn admits(&self, framework: &Framework) -> bool {
        framework.header.iter().any(|wanted| self.header.contains(&wanted.to_lowercase()))
    }
}

/// The words of a command line that may name a program: without folders, endings and options. What writes a title
/// over its command line (`gunicorn: master [app]`) does so in one string.
fn words(command: &[String]) -> Vec<String> {
    let parts = command.iter().flat_map(|part| part.split_whitespace());
    let mut words = Vec::new();
    for part in parts.filter(|part| !part.starts_with('-')) {
        let name = Path::new(part).file_name().map_or(part.into(), |name| name.to_string_lossy());
        let name = name.trim_end_matches(':');
        let name = [".js", ".cjs", ".mjs", ".py"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        words.push(name.to_owned());
    }
    words
}

/// Dependencies in the package.json of the script that node runs.
fn packages(pid: i32, command: &[String]) -> Vec<String> {
    if !["node", "nodejs", "bun", "deno"].contains(&program(pid).as_str()) {
        return Vec::new();
    }
    let Ok(folder) = std::fs::read_link(format!("/proc/{pid}/cwd")) else { return Vec::new() };
    let script = command.iter().skip(1).find(|word| !word.starts_with('-')).map(|word| folder.join(word));
    let from: PathBuf = script.filter(|script| script.exists()).unwrap_or_else(|| folder.join("index.js"));
    let read = |folder: &Path| -> Option<serde_json::Value> {
        serde_json::from_str(&std::fs::read_to_string(folder.join("package.json")).ok()?).ok()
    };
    let Some(package) = from.ancestors().skip(1).take(FOLDERS).find_map(read) else { return Vec::new() };
    package["dependencies"].as_object().map_or(Vec::new(), |found| found.keys().cloned().collect())
}

/// The binary of a compiled server, or the .jar file that Java runs.
fn binary(pid: i32, command: &[String]) -> Vec<u8> {
    let path = match program(pid).as_str() {
        "java" => match command.iter().find(|word| word.ends_with(".jar")) {
            Some(jar) => std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default().join(jar),
            None => return Vec::new(),
        },
        // Interpreters say nothing of what they run.
        name if name.starts_with("python") || ["node", "ruby", "php"].contains(&name) => return Vec::new(),
        _ => PathBuf::from(format!("/proc/{pid}/exe")),
    };
    std::fs::read(path).unwrap_or_default()
}

/// The name of a process's program, such as `sh` or `node`; empty where it has ended.
fn program(pid: i32) -> String {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The language of a process, as far as its program tells. Go writes its build information into every binary;
/// Rust's standard library leaves its source paths.
pub fn language(pid: i32) -> Option<&'static str> {
    let holds = |binary: &[u8], needle: &[u8]| memchr::memmem::find(binary, needle).is_some();
    match program(pid).as_str() {
        "node" | "nodejs" => Some("node"),
        "java" => Some("java"),
        "ruby" => Some("ruby"),
        name if name.starts_with("python") => Some("python"),
        _ => {
            let binary = std::fs::read(format!("/proc/{pid}/exe")).ok()?;
            if holds(&binary, b"\xff Go buildinf:") { Some("go") } else { holds(&binary, b"/rustc/").then_some("rust") }
        }
    }
}

/// A language as people write it.
pub fn language_name(language: &str) -> &str {
    match language {
        "python" => "Python",
        "node" => "Node.js",
        "go" => "Go",
        "rust" => "Rust",
        "java" => "Java",
        "ruby" => "Ruby",
        other => other,
    }
}

/// What to do about a rule that is broken, and where that is documented.
pub fn remedy(
    framework: Option<&'static Framework>,
    language: Option<&str>,
    rule: &str,
) -> Option<(&'static str, Option<&'static str>)> {
    if let Some(framework) = framework
        && let Some(remedy) = framework.remedy.get(rule)
    {
        return Some((remedy, Some(&framework.source)));
    }
    let anybody = PROGRAMS.anybody.get(rule).map(|remedy| (remedy.as_str(), None));
    // Python has many servers, and what is to be done in one is not in another.
    let plain = framework.map_or(language != Some("python"), |framework| framework.plain);
    let own = || crate::rules::text(rule)?.remedy.get(language?).map(|remedy| (remedy.as_str(), None));
    anybody.or_else(|| plain.then(own).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_file_is_in_order() {
        let mut names = std::collections::BTreeSet::new();
        for framework in &PROGRAMS.framework {
            let Framework { name, command, packages, modules, crates, jar, header, .. } = framework;
            assert!(names.insert(name), "{name} is there twice");
            assert!(framework.source.starts_with("https://"), "{name} has no source");
            let known = [command, packages, modules, crates, jar, header].iter().any(|by| !by.is_empty());
            assert!(known, "{name} is recognised by nothing");
            assert!(!framework.remedy.is_empty() || framework.plain, "{name} has nothing to say");
            for (rule, remedy) in &framework.remedy {
                assert!(crate::rules::find(rule).is_some(), "{name}: no rule `{rule}`");
                assert!(!remedy.is_empty(), "{name}: nothing about `{rule}`");
            }
        }
        for launcher in &PROGRAMS.launcher {
            assert!(names.insert(&launcher.name), "{} is there twice", launcher.name);
            assert!(!launcher.command.is_empty() && !launcher.way_out.is_empty(), "{}", launcher.name);
            assert!(launcher.source.starts_with("https://"), "{} has no source", launcher.name);
        }
        for rule in PROGRAMS.anybody.keys() {
            assert!(crate::rules::find(rule).is_some(), "anybody: no rule `{rule}`");
        }
    }

    #[test]
    fn launchers_are_recognised_by_their_command_line() {
        let cases = [
            ("sh -c true && ./server; :", Some("a shell")),
            ("/bin/bash run.sh", Some("a shell")),
            ("npm run start", Some("npm")),
            ("node /usr/lib/node_modules/npm/bin/npm start", Some("npm")),
            ("node /usr/local/bin/yarn.js start", Some("Yarn")),
            ("go run .", Some("go run")),
            ("go version", None),
            ("python3 -m honcho start", Some("honcho")),
            ("/usr/bin/python3 /usr/bin/supervisord -n", Some("supervisord")),
            ("uv run main.py", Some("uv run")),
            ("doppler run -- ./server", Some("Doppler")),
            ("./server --port 1", None),
            ("python3 main.py npm", None),
        ];
        for (command, name) in cases {
            let found = launcher(&line(command)).map(|launcher| launcher.name.as_str());
            assert_eq!(found, name, "{command}");
        }
    }

    #[test]
    fn frameworks_are_recognised_by_what_they_leave() {
        let none = || Evidence { words: vec![], packages: vec![], binary: vec![], header: String::new() };
        let named = |evidence: Evidence| {
            PROGRAMS.framework.iter().find(|f| evidence.names(f)).map(|framework| framework.name.as_str())
        };
        let command =
            |text: &str| named(Evidence { words: words(&line(text)).into_iter().take(WORDS).collect(), ..none() });
        assert_eq!(command("/venv/bin/python /venv/bin/uvicorn app:app"), Some("uvicorn"));
        assert_eq!(command("python3 -m hypercorn app:app"), Some("Hypercorn"));
        assert_eq!(command("gunicorn: master [app:app]"), Some("gunicorn"));
        assert_eq!(command("nginx: master process nginx -g daemon off;"), Some("nginx"));
        assert_eq!(command("puma 6.4.2 (tcp://0.0.0.0:9292) [app]"), Some("Puma"));
        assert_eq!(command("python3 main.py"), None);
        let packages = |names: &[&str]| {
            named(Evidence { packages: names.iter().map(|name| (*name).to_owned()).collect(), ..none() })
        };
        assert_eq!(packages(&["express"]), Some("Express"));
        assert_eq!(packages(&["express", "http-terminator"]), Some("http-terminator"));
        assert_eq!(packages(&["@nestjs/core", "express"]), Some("NestJS"));
        let binary = |text: &str| named(Evidence { binary: text.into(), ..none() });
        assert_eq!(binary("\ndep\tgithub.com/gin-gonic/gin\tv1.10.0\th1:"), Some("gin"));
        assert_eq!(binary("/registry/src/index/axum-0.8.1/src/serve.rs"), Some("axum"));
        assert_eq!(binary("BOOT-INF/classes/"), Some("Spring Boot"));
        let header = |text: &str| {
            let evidence = Evidence { header: text.to_lowercase(), ..none() };
            PROGRAMS.framework.iter().find(|f| evidence.admits(f)).map(|framework| framework.name.as_str())
        };
        assert_eq!(header("Werkzeug/3.0.1 Python/3.11.9"), Some("Flask's development server"));
        assert_eq!(header("Python/3.11 aiohttp/3.9.5"), Some("aiohttp"));
        assert_eq!(header("BaseHTTP/0.6 Python/3.11.9"), Some("Python's http.server"));
        assert_eq!(header("waitress"), Some("waitress"));
    }

    #[test]
    fn nobody_is_told_what_only_the_references_can_do() {
        for framework in [None, PROGRAMS.framework.iter().find(|framework| framework.name == "Express")] {
            for rule in crate::rules::all() {
                let said = remedy(framework, Some("node"), rule.slug).map_or("", |(remedy, _)| remedy);
                assert!(!said.contains("koffi"), "{}: {said}", rule.slug);
            }
        }
        let said = remedy(None, Some("python"), "in-flight-answered").map_or("", |(remedy, _)| remedy);
        assert!(!said.contains("ThreadingHTTPServer"), "{said}");
    }
}
