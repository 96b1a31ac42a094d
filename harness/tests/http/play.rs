//! Plays one row against a server, and says what is not as the table has it.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::server::Server;
use crate::table::{Action, Part, Row};
use crate::wire::{Answer, End, PATIENCE, Wire};

/// A pause between two parts: long enough for the first to arrive alone, as a rule. Nothing depends on it.
const PAUSE: Duration = Duration::from_millis(50);
/// Asked after each row: where it is answered, the connection was open. No row asks for so many bytes.
const PROBE: &[u8] = b"GET /bytes?size=1237 HTTP/1.1\r\nHost: probe\r\n\r\n";
const PROBE_LENGTH: usize = 1237;
const ADMIN_PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n";
/// What the servers are started with, so that few requests make one busy.
pub const MAX_IN_FLIGHT: &str = "8";

/// What came back.
struct Outcome {
    answers: Vec<Answer>,
    /// `None` where the connection went on to answer the next request.
    end: Option<End>,
}

/// Returns what is wrong, in one line: nothing, it is hoped.
pub fn play(server: &Server, row: &Row) -> Result<(), String> {
    let crowd = if row.busy { Some(Crowd::gather(server)?) } else { None };
    let lines = server.lines();
    let outcome = converse(server, row, None)?;
    drop(crowd);
    let mut faults = judge(row, &outcome);
    let answered = outcome.answers.first().is_some_and(|answer| answer.status != 405);
    if row.text().starts_with("HEAD ") && answered {
        faults.extend(compare_with_get(server, row, &outcome)?);
    }
    if let Some(expected) = &row.executed {
        let executed = executed(server, lines)?;
        if executed != *expected {
            faults.push(format!("executed {executed:?} instead of {expected:?}"));
        }
    }
    if row.busy {
        server.await_metrics(&["http_requests_in_flight 0".to_owned()], PATIENCE)?;
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "sent {} expected {} got {} ({})",
        shorten(&format!("{:?}", row.text()), 240),
        row.expected(),
        describe(&outcome),
        faults.join("; ")
    ))
}

/// Sends the parts and reads what comes. `method` replaces the row's own, HEAD.
fn converse(server: &Server, row: &Row, method: Option<&str>) -> Result<Outcome, String> {
    let port = if row.admin { server.admin_port.ok_or("no admin port")? } else { server.port };
    let mut wire = Wire::connect(port, row.slow).map_err(|error| format!("no connection: {error}"))?;
    let mut outcome = Outcome { answers: Vec::new(), end: None };
    let text = row.text();
    let mut heads = heads(&text);
    if let (Some(_), Some(first)) = (method, heads.first_mut()) {
        *first = false;
    }
    let expected = row.expect.iter().map(|expect| expect.finals()).max().unwrap_or(0);

    for (number, part) in row.parts().iter().enumerate() {
        match part {
            Part::Do { r#do: Action::Pause } => std::thread::sleep(PAUSE),
            Part::Do { r#do: Action::HalfClose } => wire.half_close(),
            Part::Do { r#do: Action::Await } => {
                next(&mut wire, &mut outcome, &heads);
                if outcome.end.is_some() || finals(&outcome.answers) > 0 {
                    break;
                }
            }
            Part::Bytewise { .. } => part.bytes().iter().for_each(|byte| wire.send(&[*byte])),
            Part::Text(_) | Part::Repeat { .. } => {
                let mut bytes = part.bytes();
                if let (0, Some(method)) = (number, method) {
                    bytes.splice(.."HEAD".len(), method.bytes());
                }
                wire.send(&bytes);
            }
        }
    }
    while outcome.end.is_none() && finals(&outcome.answers) < expected {
        next(&mut wire, &mut outcome, &heads);
    }
    let last_says_close = outcome.answers.last().is_some_and(|answer| answer.says("close"));
    if outcome.end.is_none() && !last_says_close && !row.half_closes() {
        wire.send(if row.admin { ADMIN_PROBE } else { PROBE });
    }
    while outcome.end.is_none() {
        next(&mut wire, &mut outcome, &heads);
        let answered = outcome.answers.last().is_some_and(|answer| is_probe(answer, row));
        if answered && !last_says_close {
            outcome.answers.pop();
            return Ok(outcome);
        }
    }
    Ok(outcome)
}

fn is_probe(answer: &Answer, row: &Row) -> bool {
    match (row.admin, row.busy) {
        (true, _) => answer.status == 404,
        (_, true) => answer.status == 429,
        _ => answer.status == 200 && answer.body.len() == PROBE_LENGTH,
    }
}

fn next(wire: &mut Wire, outcome: &mut Outcome, heads: &[bool]) {
    let to_head = heads.get(finals(&outcome.answers)).copied().unwrap_or(false);
    match wire.answer(to_head) {
        Ok(answer) => outcome.answers.push(answer),
        Err(end) => outcome.end = Some(end),
    }
}

/// Which of the requests of a text are HEAD: their answers have no body.
fn heads(text: &str) -> Vec<bool> {
    let lines = text.split("\r\n").filter(|line| line.contains(" HTTP/"));
    lines.map(|line| line.starts_with("HEAD ")).collect()
}

fn finals(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| !answer.is_interim()).count()
}

fn judge(row: &Row, outcome: &Outcome) -> Vec<String> {
    let open = outcome.end.is_none();
    let orderly = matches!(outcome.end, None | Some(End::Closed | End::Reset));
    let Some(expect) = row.expect.iter().find(|expect| orderly && expect.fits(&outcome.answers, open)) else {
        return vec!["not that".to_owned()];
    };
    let mut faults = Vec::new();
    if row.ideal.iter().any(|ideal| ideal.fits(&outcome.answers, open)) {
        faults.push("the server needs no exception here".to_owned());
    }
    let finals: Vec<&Answer> = outcome.answers.iter().filter(|answer| !answer.is_interim()).collect();
    for (number, answer) in finals.iter().enumerate() {
        let body = row.body_of(number).filter(|_| answer.status < 300);
        if body.is_some_and(|body| body != answer.body) {
            faults.push(format!("answer {} has the body {}", number + 1, show(&answer.body)));
        }
        faults.extend(always(answer, row));
    }
    let Some(first) = finals.first() else { return faults };
    if let Some(text) = &row.contains
        && !String::from_utf8_lossy(&first.body).contains(text)
    {
        faults.push(format!("its body is {}", show(&first.body)));
    }
    if let Some(length) = row.length.filter(|length| first.status < 300 && *length != first.body.len()) {
        faults.push(format!("its body has {} bytes, not {length}", first.body.len()));
    }
    for (name, value) in &row.fields {
        let actual = first.field(name).unwrap_or_default();
        if as_set(&actual) != as_set(value) {
            faults.push(format!("{name} is {actual:?}, not {value:?}"));
        }
    }
    // RFC 9112, 9.6: who is going to close says so. What a parser refuses, and HTTP/1.0, know no other end.
    let last = finals[finals.len() - 1];
    let in_1_1 = row.text().contains(" HTTP/1.1\r\n") && !row.half_closes();
    if expect.open != Some(true) && !open && in_1_1 && by_handler(last) && !last.says("close") {
        faults.push("it closes without `Connection: close`".to_owned());
    }
    // RFC 9112, C.2.2: HTTP/1.0 stays open only where that is said.
    if open && row.text().contains(" HTTP/1.0\r\n") && !last.says("keep-alive") {
        faults.push("it keeps HTTP/1.0 open without `Connection: keep-alive`".to_owned());
    }
    faults
}

/// What holds for every response, whatever the row is about.
fn always(answer: &Answer, row: &Row) -> Vec<String> {
    let mut faults = Vec::new();
    let has = |name| answer.field(name).is_some();
    // What comes from a handler. A parser's refusals (400, 408, 431, 501, 505) need neither.
    if answer.status < 300 || matches!(answer.status, 404 | 405 | 413 | 422 | 429) {
        // RFC 9110, 6.6.1
        faults.extend(["Date", "X-Instance-Id"].iter().filter(|name| !has(name)).map(|name| format!("no {name}")));
    }
    if by_handler(answer) && answer.status >= 400 && !row.text().contains("HEAD ") {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if !body["error"].is_string() || answer.body.iter().filter(|byte| **byte == b'\n').count() != 1 {
            faults.push(format!("the error is not a line of JSON: {}", show(&answer.body)));
        }
    }
    if answer.status == 405 && !has("Allow") {
        faults.push("405 without Allow (RFC 9110, 15.5.6)".to_owned());
    }
    if answer.status == 429 && !has("Retry-After") {
        faults.push("429 without Retry-After".to_owned());
    }
    if has("Transfer-Encoding") && (has("Content-Length") || row.text().contains(" HTTP/1.0\r\n")) {
        faults.push("Transfer-Encoding where it must not be (RFC 9112, 6.1 and 6.2)".to_owned());
    }
    faults
}

fn by_handler(answer: &Answer) -> bool {
    answer.field("X-Instance-Id").is_some()
}

/// RFC 9110, 9.3.2 and 8.6: the same fields as for GET.
fn compare_with_get(server: &Server, row: &Row, to_head: &Outcome) -> Result<Option<String>, String> {
    let to_get = converse(server, row, Some("GET"))?;
    let (Some(head), Some(get)) = (to_head.answers.first(), to_get.answers.first()) else { return Ok(None) };
    if head.status != get.status {
        return Ok(None); // the row has said what is expected
    }
    let differ = ["Content-Length", "Content-Type"].into_iter().find(|name| head.field(name) != get.field(name));
    Ok(differ.map(|name| format!("{name} is {:?}, for GET {:?}", head.field(name), get.field(name))))
}

/// The ids in the log since line `from`. A request of our own, sent last, shows that nothing more comes.
fn executed(server: &Server, from: usize) -> Result<Vec<String>, String> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let last = format!("probe-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut wire = Wire::connect(server.port, false).map_err(|error| error.to_string())?;
    wire.send(format!("GET / HTTP/1.1\r\nHost: probe\r\nX-Request-Id: {last}\r\n\r\n").as_bytes());
    server.executed(from, &last).ok_or_else(|| "a request with an id was not logged".to_owned())
}

/// As many requests in flight as the server takes.
struct Crowd {
    _wires: Vec<Wire>,
}

impl Crowd {
    fn gather(server: &Server) -> Result<Self, String> {
        let mut wires = Vec::new();
        let size: usize = MAX_IN_FLIGHT.parse().expect("a number");
        for _ in 0..size {
            let mut wire = Wire::connect(server.port, false).map_err(|error| error.to_string())?;
            wire.send(b"GET /slow?delay=60 HTTP/1.1\r\nHost: crowd\r\n\r\n");
            wires.push(wire);
        }
        server.await_metrics(&[format!("http_requests_in_flight {size}")], PATIENCE)?;
        Ok(Self { _wires: wires })
    }
}

fn as_set(list: &str) -> Vec<String> {
    let mut items: Vec<String> = list.split(',').map(|item| item.trim().to_lowercase()).collect();
    items.sort();
    items
}

fn describe(outcome: &Outcome) -> String {
    let mut text = String::new();
    for answer in &outcome.answers {
        let _ = write!(text, "{}{}", if text.is_empty() { "" } else { "," }, answer.status);
    }
    match &outcome.end {
        None => text.push_str(" open"),
        Some(end) => text.push_str(&format!(" {end}")),
    }
    text.trim().to_owned()
}

fn show(bytes: &[u8]) -> String {
    shorten(&format!("{:?}", String::from_utf8_lossy(bytes)), 80)
}

fn shorten(text: &str, most: usize) -> String {
    let short: String = text.chars().take(most).collect();
    if short.len() == text.len() { short } else { format!("{short}…") }
}
