//! The table `servers/http.toml`: what is sent, and what may come back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use crate::server;
use crate::wire::Answer;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    group: Vec<Group>,
    #[serde(default)]
    except: Vec<Except>,
}

/// Rows that say something about the same thing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    source: String,
    rows: Vec<Row>,
}

/// Where a server's library cannot do what the row would like.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Except {
    server: String,
    rows: Vec<String>,
    expect: Vec<Expect>,
    /// The bodies, where they are others, too.
    #[serde(default)]
    body: Bodies,
    why: String,
}

/// One thing to try on a connection of its own.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    /// That of the group, where the row has none.
    #[serde(default)]
    pub source: String,
    pub send: Parts,
    /// What may come back: any one of these.
    pub expect: Vec<Expect>,
    /// Bodies of the final answers, in order, for those that have a status below 300.
    #[serde(default)]
    pub body: Bodies,
    /// What the body of the first final answer contains, whatever its status.
    pub contains: Option<String>,
    /// How long the body of the first final answer is, in bytes.
    pub length: Option<usize>,
    /// Fields of the first final answer; an empty value means that it must not have the field.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// The ids that standard output says were executed, no more and no less.
    pub executed: Option<Vec<String>>,
    /// Goes to the admin port.
    #[serde(default)]
    pub admin: bool,
    /// As many requests as the server takes are in flight meanwhile.
    #[serde(default)]
    pub busy: bool,
    /// The client reads slowly.
    #[serde(default)]
    pub slow: bool,
    /// What the row expects of everybody, where this server is an exception.
    #[serde(skip)]
    pub ideal: Vec<Expect>,
}

/// One part, or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Parts {
    One(Part),
    Many(Vec<Part>),
}

/// Bytes, or something to do. Each character of a text is one byte (ISO 8859-1), so that any byte can be written.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Part {
    Text(String),
    Repeat { repeat: String, times: usize },
    Bytewise { bytewise: String },
    Do { r#do: Action },
}

/// What a client does beside sending.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Lets what was sent arrive by itself. The outcome must be the same without.
    Pause,
    /// Waits for an answer, an interim one or not. After a final one nothing more is sent.
    Await,
    /// Sends FIN and goes on reading.
    HalfClose,
}

/// One body, or one for each answer.
#[derive(Clone, Default, Deserialize)]
#[serde(untagged)]
pub enum Bodies {
    #[default]
    Any,
    One(String),
    Many(Vec<String>),
}

/// Statuses in order and what becomes of the connection: "100,200 open", "4xx|505 close", "close", "404".
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Expect {
    text: String,
    statuses: Vec<Vec<String>>,
    pub open: Option<bool>,
}

impl TryFrom<String> for Expect {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (statuses, open) = match text.rsplit_once(' ') {
            _ if text == "close" => ("", Some(false)),
            Some((statuses, "open")) => (statuses, Some(true)),
            Some((statuses, "close")) => (statuses, Some(false)),
            None => (text.as_str(), None),
            Some(_) => return Err(format!("{text:?}: what becomes of the connection is `open` or `close`")),
        };
        let each = statuses.split(',').filter(|one| !one.is_empty());
        let statuses: Vec<Vec<String>> = each.map(|one| one.split('|').map(str::to_owned).collect()).collect();
        let digits = |status: &String| {
            let (first, rest) = status.split_at(status.len().min(1));
            let class = matches!(first, "1" | "2" | "3" | "4" | "5") && rest == "xx";
            class || status.len() == 3 && status.parse::<u16>().is_ok()
        };
        if !statuses.iter().flatten().all(digits) {
            return Err(format!("{text:?}: a status is like 200 or 4xx"));
        }
        Ok(Self { statuses, open, text })
    }
}

impl Expect {
    /// How many final answers it expects.
    pub fn finals(&self) -> usize {
        self.statuses.iter().filter(|allowed| !allowed[0].starts_with('1')).count()
    }

    /// Whether these answers, and then this end, are what it expects.
    pub fn fits(&self, answers: &[Answer], open: bool) -> bool {
        let matches = |(allowed, answer): (&Vec<String>, &Answer)| {
            let status = answer.status.to_string();
            allowed.iter().any(|allowed| *allowed == status || allowed[1..] == *"xx" && allowed[..1] == status[..1])
        };
        answers.len() == self.statuses.len()
            && self.statuses.iter().zip(answers).all(matches)
            && self.open.is_none_or(|expected| expected == open)
    }
}

impl Row {
    pub fn parts(&self) -> &[Part] {
        match &self.send {
            Parts::One(part) => std::slice::from_ref(part),
            Parts::Many(parts) => parts,
        }
    }

    pub fn half_closes(&self) -> bool {
        self.parts().iter().any(|part| matches!(part, Part::Do { r#do: Action::HalfClose }))
    }

    /// The body that the final answer of this number should have, where the row says.
    pub fn body_of(&self, answer: usize) -> Option<Vec<u8>> {
        let text = match &self.body {
            Bodies::One(body) if answer == 0 => body,
            Bodies::Many(bodies) => bodies.get(answer)?,
            Bodies::Any | Bodies::One(_) => return None,
        };
        Some(latin1(text))
    }

    /// What is expected, in words.
    pub fn expected(&self) -> String {
        let texts: Vec<&str> = self.expect.iter().map(|expect| expect.text.as_str()).collect();
        texts.join(" or ")
    }

    /// What it sends as one text, for the first line of each request to be found in it.
    pub fn text(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) | Part::Bytewise { bytewise: text } => text.clone(),
            Part::Repeat { repeat, .. } => repeat.clone(),
            Part::Do { .. } => String::new(),
        };
        self.parts().iter().map(text).collect()
    }
}

impl Part {
    /// The bytes of it.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) | Self::Bytewise { bytewise: text } => latin1(text),
            Self::Repeat { repeat, times } => latin1(repeat).repeat(*times),
            Self::Do { .. } => Vec::new(),
        }
    }
}

/// One byte for each character.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a table of bytes has no characters above U+00FF")).collect()
}

impl Table {
    /// Reads the table of this checkout, or the file that the variable HTTP_TABLE names.
    pub fn load() -> Self {
        let own = || server::folder().join("http.toml");
        let path = std::env::var_os("HTTP_TABLE").map_or_else(own, PathBuf::from);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// All rows, as they hold for this server; of those only the ones whose name contains HTTP_ROW.
    pub fn rows(&self, server: &str) -> Vec<Row> {
        let wanted = std::env::var("HTTP_ROW").unwrap_or_default();
        let mut rows = Vec::new();
        for group in &self.group {
            for row in group.rows.iter().filter(|row| row.name.contains(&wanted)) {
                let mut row = row.clone();
                if row.source.is_empty() {
                    row.source.clone_from(&group.source);
                }
                if let Some(except) = self.except(server, &row.name) {
                    let expect = std::mem::replace(&mut row.expect, except.expect.clone());
                    row.fields.clear(); // they belong to another answer
                    match except.body {
                        Bodies::Any => row.ideal = expect,
                        _ => row.body = except.body.clone(), // the body is the exception
                    }
                    row.fields.clear(); // they belong to another answer
                }
                rows.push(row);
            }
        }
        rows
    }

    fn except(&self, server: &str, row: &str) -> Option<&Except> {
        self.except.iter().find(|except| except.server == server && except.rows.iter().any(|name| name == row))
    }

    /// What is wrong with the table itself.
    pub fn faults(&self, servers: &BTreeSet<String>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut names = BTreeSet::new();
        for row in self.group.iter().flat_map(|group| &group.rows) {
            if !names.insert(row.name.as_str()) {
                faults.push(format!("two rows are called {}", row.name));
            }
            if row.expect.is_empty() {
                faults.push(format!("{} expects nothing", row.name));
            }
        }
        for except in &self.except {
            if !servers.contains(&except.server) || except.why.is_empty() {
                faults.push(format!("an exception names server {:?}, because {:?}", except.server, except.why));
            }
            let unknown = except.rows.iter().filter(|row| !names.contains(row.as_str()));
            faults.extend(unknown.map(|row| format!("an exception of {} names {row}, which is no row", except.server)));
        }
        faults
    }
}
