//! Bare programs: each writes a byte and exits. What a runtime takes to end after that is no server's fault.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::BenchError;
use crate::process::guardian;

/// A language, and what its reference may take to exit over its bare program, in milliseconds.
pub struct Language {
    /// Its name, which is also that of its reference server.
    pub name: &'static str,
    /// The bar.
    pub exit_bar_ms: f64,
    source: Option<(&'static str, &'static str)>,
    build: &'static [&'static str],
    run: &'static [&'static str],
}

/// The four languages.
pub const LANGUAGES: [Language; 4] = [
    Language {
        name: "python",
        exit_bar_ms: 15.0,
        source: None,
        build: &[],
        run: &["python3", "-B", "-c", "import http.server, os, sys; os.write(1, b'x')"],
    },
    Language {
        name: "node",
        exit_bar_ms: 6.0,
        source: None,
        build: &[],
        run: &["node", "-e", "require('node:http'); require('node:fs').writeSync(1, 'x')"],
    },
    Language {
        name: "go",
        exit_bar_ms: 3.0,
        source: Some((
            "bare.go",
            "package main\nimport (\"net/http\"; \"os\")\nfunc main() { _ = http.DefaultServeMux; os.Stdout.Write([]byte(\"x\")) }\n",
        )),
        build: &["go", "build", "-o", "bare-go", "bare.go"],
        run: &["./bare-go"],
    },
    Language {
        name: "rust",
        exit_bar_ms: 2.0,
        source: Some((
            "bare.rs",
            "use std::io::Write;\nfn main() { let mut out = std::io::stdout(); let _ = out.write_all(b\"x\"); let _ = out.flush(); }\n",
        )),
        build: &["rustc", "-O", "-o", "bare-rust", "bare.rs"],
        run: &["./bare-rust"],
    },
];

impl Language {
    /// Builds the bare program in a folder, where it needs that.
    pub(super) async fn build(&self, folder: &Path) -> Result<(), BenchError> {
        let Some((name, text)) = self.source else { return Ok(()) };
        std::fs::write(folder.join(name), text)?;
        let output = self.command(self.build, folder).output().await.map_err(|error| self.failed(self.build, error))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(BenchError::Program { program: self.build.join(" "), why })
    }

    /// Milliseconds from the byte to the end of the bare program.
    pub(super) async fn exit_after_byte_ms(&self, folder: &Path) -> Result<f64, BenchError> {
        let mut command = self.command(self.run, folder);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| self.failed(self.run, error))?;
        let mut byte = [0];
        if let Some(out) = child.stdout.as_mut() {
            out.read_exact(&mut byte).await?;
        }
        let written = Instant::now();
        child.wait().await?;
        Ok(written.elapsed().as_secs_f64() * 1e3)
    }

    fn command(&self, arguments: &[&str], folder: &Path) -> Command {
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]).current_dir(folder).envs(guardian::tag()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn failed(&self, arguments: &[&str], error: std::io::Error) -> BenchError {
        BenchError::Program { program: arguments[0].to_owned(), why: error.to_string() }
    }
}
