//! Markers: comments `rule: slug[, slug]` in a server's source, at the lines that keep a rule.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::CatalogError;

/// Folders that hold no source of the server's own.
const NOT_SOURCE: [&str; 7] = ["build", "target", "node_modules", "__pycache__", "vendor", "test", "tests"];
/// What a marker begins with.
const WORD: &str = "rule:";
/// Lines shown before and after a marker that ends a line of code.
const BESIDE: (usize, usize) = (2, 4);
/// Lines of code shown below a comment, and of a signature above a docstring.
const BELOW: usize = 8;

/// The place where a server keeps a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Marker {
    /// Slug of the rule, as written.
    pub rule: String,
    /// The file, relative to the server's folder.
    pub file: PathBuf,
    /// Line of the marker; the first line of a file is 1.
    pub line: usize,
    /// What stands there.
    pub excerpt: Excerpt,
}

/// A few lines of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// Number of the first one.
    pub first: usize,
    /// The lines, without the indentation that all of them share.
    pub lines: Vec<String>,
}

/// All markers of the server in a folder, by file and line.
///
/// # Errors
/// Names the file that cannot be read, or the file and line of a malformed marker.
pub fn read(folder: &Path) -> Result<Vec<Marker>, CatalogError> {
    let mut files = Vec::new();
    sources(folder, &mut files)?;
    files.sort();
    let mut markers = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(|source| CatalogError::Io { path: path.clone(), source })?;
        let file = path.strip_prefix(folder).unwrap_or(&path);
        let malformed = |(line, reason)| CatalogError::Marker { path: path.clone(), line, reason };
        markers.extend(in_source(file, &text).map_err(malformed)?);
    }
    Ok(markers)
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), CatalogError> {
    let io = |source| CatalogError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(io)?.is_dir() {
            if !NOT_SOURCE.contains(&name.as_str()) && !name.starts_with('.') {
                sources(&path, files)?;
            }
        } else if Syntax::of(&path).is_some() && !name.ends_with("_test.go") {
            files.push(path);
        }
    }
    Ok(())
}

/// How a language writes comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// `#` and docstrings.
    Python,
    /// `//` and `/* */`.
    Braces,
}

impl Syntax {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "py" => Some(Self::Python),
            "js" | "mjs" | "ts" | "go" | "rs" => Some(Self::Braces),
            _ => None,
        }
    }
}

/// The markers in the text of one file; an error is a line and what is wrong with it.
fn in_source(file: &Path, text: &str) -> Result<Vec<Marker>, (usize, String)> {
    let Some(syntax) = Syntax::of(file) else { return Ok(Vec::new()) };
    let source = Source::new(text, syntax);
    let mut markers = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        let Some(rules) = slugs(line).map_err(|reason| (at + 1, reason))? else { continue };
        let excerpt = source.excerpt(at);
        let marker = |rule| Marker { rule, file: file.to_owned(), line: at + 1, excerpt: excerpt.clone() };
        markers.extend(rules.into_iter().map(marker));
    }
    Ok(markers)
}

/// The slugs that a line names. A line with the word and something else behind it is an error rather than
/// nothing: it would be a marker that nobody reads.
fn slugs(line: &str) -> Result<Option<Vec<String>>, String> {
    let Some(at) = line.find(WORD) else { return Ok(None) };
    if line[..at].ends_with(|before: char| !before.is_whitespace() && !"#/*\"'".contains(before)) {
        return Ok(None);
    }
    let rest = line[at + WORD.len()..].trim();
    let rest = ["\"\"\"", "'''", "*/"].iter().fold(rest, |rest, end| rest.trim_end_matches(end)).trim_end();
    let named: Vec<&str> = rest.split(',').map(str::trim).collect();
    let is_slug = |slug: &&str| {
        slug.starts_with(|first: char| first.is_ascii_lowercase())
            && slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    match named.iter().find(|slug| !is_slug(slug)) {
        None => Ok(Some(named.into_iter().map(str::to_owned).collect())),
        Some(odd) => Err(format!("`{odd}` is no slug: a marker is `rule: slug[, slug]` at the end of a comment")),
    }
}

/// A file whose comments are known.
struct Source<'t> {
    lines: Vec<&'t str>,
    comments: Vec<bool>,
    syntax: Syntax,
}

impl<'t> Source<'t> {
    fn new(text: &'t str, syntax: Syntax) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let mut open = None;
        let comments = lines.iter().map(|line| is_comment(line.trim(), syntax, &mut open)).collect();
        Self { lines, comments, syntax }
    }

    fn excerpt(&self, marker: usize) -> Excerpt {
        let (first, last) = if self.comments[marker] { self.below_comment(marker) } else { self.beside(marker) };
        let lines = &self.lines[first..=last];
        let shared = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| indent(line)).min().unwrap_or(0);
        Excerpt {
            first: first + 1,
            lines: lines.iter().map(|line| line[shared.min(line.len())..].to_owned()).collect(),
        }
    }

    /// The marker ends a line of code: that line and its neighbours.
    fn beside(&self, marker: usize) -> (usize, usize) {
        let blank = |at: &usize| self.lines[*at].trim().is_empty();
        let above = (marker.saturating_sub(BESIDE.0)..marker).rev().take_while(|at| !blank(at)).last();
        let end = self.lines.len().min(marker + 1 + BESIDE.1);
        let below = (marker + 1..end).take_while(|at| !blank(at)).last();
        (above.unwrap_or(marker), below.unwrap_or(marker))
    }

    /// The marker is in a comment of its own: all of the comment, and the code that it is about.
    fn below_comment(&self, marker: usize) -> (usize, usize) {
        let comment = |at: &usize| self.comments[*at];
        let mut first = (0..=marker).rev().take_while(comment).last().unwrap_or(marker);
        let mut last = (marker..self.lines.len()).take_while(comment).last().unwrap_or(marker);
        let depth = indent(self.lines[first]);
        let quoted = self.syntax == Syntax::Python && !self.lines[first].trim_start().starts_with('#');
        if quoted {
            // A docstring stands below what it is about.
            let floor = first.saturating_sub(BELOW);
            let code = |at: &usize| !self.comments[*at] && !self.lines[*at].trim().is_empty();
            let head = (floor..first).rev().take_while(code).find(|at| {
                let line = self.lines[*at].trim_start();
                ["def ", "class ", "async def "].iter().any(|word| line.starts_with(word))
                    && indent(self.lines[*at]) < depth
            });
            first = head.unwrap_or(first);
        }
        for at in last + 1..self.lines.len().min(last + 1 + BELOW) {
            let line = self.lines[at];
            if line.trim().is_empty() || indent(line) < depth {
                break;
            }
            last = at;
            if indent(line) == depth && line.trim_start().starts_with('}') {
                break;
            }
        }
        (first, last)
    }
}

/// What goes on in the next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Comment,
    /// A string that is no comment, because something is done with it.
    Code,
}

/// Whether a line is nothing but comment.
fn is_comment(line: &str, syntax: Syntax, open: &mut Option<Open>) -> bool {
    match syntax {
        Syntax::Python => {
            let begins = line.starts_with("\"\"\"") || line.starts_with("'''");
            let here = open.unwrap_or(if begins || line.starts_with('#') { Open::Comment } else { Open::Code });
            if (line.matches("\"\"\"").count() + line.matches("'''").count()) % 2 == 1 {
                *open = if open.is_some() { None } else { Some(here) };
            }
            here == Open::Comment
        }
        Syntax::Braces => {
            let begins = open.is_some() || line.starts_with("/*");
            *open = (begins && !line.contains("*/")).then_some(Open::Comment);
            begins || line.starts_with("//")
        }
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers(file: &str, text: &str) -> Vec<Marker> {
        in_source(Path::new(file), text).unwrap()
    }

    #[test]
    fn every_form_of_comment_is_read() {
        for (file, line) in [
            ("a.py", "    stop()  # the last word. rule: one, two-b"),
            ("a.py", "    \"\"\"Says so. rule: one, two-b\"\"\""),
            ("a.js", "  /** Says so. rule: one, two-b */"),
            ("a.go", "\tstop() // rule: one, two-b"),
            ("a.rs", "    //! rule: one,two-b  "),
        ] {
            let rules: Vec<String> = markers(file, line).into_iter().map(|marker| marker.rule).collect();
            assert_eq!(rules, ["one", "two-b"], "{line}");
        }
    }

    #[test]
    fn other_words_are_no_markers() {
        assert!(markers("a.go", "// The overrule: nothing\nfunc rule() {}\n").is_empty());
        assert!(markers("a.md", "rule: one").is_empty());
    }

    #[test]
    fn a_malformed_marker_is_an_error_with_its_line() {
        for line in ["// rule: one two", "// rule:", "// rule: One", "// rule: one,", "// rule: one. More."] {
            let error = in_source(Path::new("a.go"), &format!("package a\n{line}\n")).unwrap_err();
            assert_eq!(error.0, 2, "{line}");
        }
    }

    #[test]
    fn a_line_of_code_is_shown_with_its_neighbours() {
        let text = "a\n\n\tif x {\n\t\tstop() // rule: one\n\t}\n\nb\n";
        let excerpt = &markers("a.go", text)[0].excerpt;
        assert_eq!((excerpt.first, excerpt.lines.join("|").as_str()), (3, "if x {|\tstop() // rule: one|}"));
    }

    #[test]
    fn a_comment_is_shown_whole_with_what_is_below() {
        let text = "x\n\n// Says why.\n// rule: one\nfunc stop() {\n\tnow()\n}\nfunc other() {}\n";
        let marker = &markers("a.go", text)[0];
        assert_eq!(marker.line, 4);
        assert_eq!(marker.excerpt.first, 3);
        assert_eq!(marker.excerpt.lines, ["// Says why.", "// rule: one", "func stop() {", "\tnow()", "}"]);
    }

    #[test]
    fn a_docstring_is_shown_with_what_is_above_and_below() {
        let text = "class A:\n    def stop(\n        self,\n    ):\n        \"\"\"Says\n        why. rule: one\"\"\"\n        now()\n\n    def b(): ...\n";
        let excerpt = &markers("a.py", text)[0].excerpt;
        assert_eq!(excerpt.first, 2);
        assert_eq!(excerpt.lines.first().unwrap(), "def stop(");
        assert_eq!(excerpt.lines.last().unwrap(), "    now()");
    }

    #[test]
    fn a_string_that_is_assigned_is_no_comment() {
        let text = "A = \"\"\"\nb\n\"\"\"\nstop()  # rule: one\n";
        assert_eq!(markers("a.py", text)[0].excerpt.lines.len(), 3, "the line itself and two above");
    }

    #[test]
    fn what_is_built_or_installed_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        for place in ["src", "target", "node_modules/x", ".venv", "tests"] {
            std::fs::create_dir_all(folder.path().join(place)).unwrap();
            std::fs::write(folder.path().join(place).join("a.rs"), "// rule: one\n").unwrap();
        }
        let files: Vec<PathBuf> = read(folder.path()).unwrap().into_iter().map(|marker| marker.file).collect();
        assert_eq!(files, [PathBuf::from("src/a.rs")]);
    }
}
