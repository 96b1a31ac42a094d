//! Reading a recorded timeline, whoever wrote it.

use std::io::{BufRead, Read};

use serde::Deserialize;

use super::{Event, FORMAT, Header, Record, Timeline};

/// Longest line that is read, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// What is wrong with a recorded timeline, and where.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// There is no header.
    #[error("is empty: expected a timeline, whose first line is its header")]
    Empty,
    /// The first line says that another version wrote it.
    #[error(
        "line 1: format {found} is not known to this version, which reads formats 1 to {FORMAT}: use the drainspec that recorded it"
    )]
    Format {
        /// The version found.
        found: u64,
    },
    /// A line is not what it should be.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The last record is missing.
    #[error("line {line}: the timeline is truncated: its last record is not `finished`")]
    Truncated {
        /// The last line.
        line: usize,
    },
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

/// Reads a whole timeline.
///
/// # Errors
/// Names the line at fault: not JSON, unknown fields, times that go backwards, records after the end, a
/// truncated file, a format of another version.
pub fn read(mut input: impl BufRead) -> Result<Timeline, ReadError> {
    let Some(first) = next_line(&mut input, 1)? else { return Err(ReadError::Empty) };
    let format: Format = parse(&first, 1)?;
    if !(1..=u64::from(FORMAT)).contains(&format.format) {
        return Err(ReadError::Format { found: format.format });
    }
    let header: Header = parse(&first, 1)?;
    let mut records: Vec<Record> = Vec::new();
    let mut line = 1;
    while let Some(text) = next_line(&mut input, line + 1)? {
        line += 1;
        let record: Record = parse(&text, line)?;
        let wrong = match records.last() {
            Some(Record { event: Event::Finished, .. }) => Some("a record after `finished`".to_owned()),
            Some(last) if last.t_us > record.t_us => {
                Some(format!("t_us goes backwards, from {} to {}", last.t_us, record.t_us))
            }
            _ => None,
        };
        if let Some(reason) = wrong {
            return Err(ReadError::Line { line, reason });
        }
        records.push(record);
    }
    match records.last() {
        Some(Record { event: Event::Finished, .. }) => Ok(Timeline { header, records }),
        _ => Err(ReadError::Truncated { line }),
    }
}

fn next_line(input: &mut impl BufRead, line: usize) -> Result<Option<String>, ReadError> {
    let mut text = String::new();
    let length = input.take(MAX_LINE).read_line(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => ReadError::Line { line, reason: "is not UTF-8".to_owned() },
        _ => ReadError::Io(error),
    })?;
    match length as u64 {
        0 => Ok(None),
        MAX_LINE => Err(ReadError::Line { line, reason: format!("is longer than {MAX_LINE} bytes") }),
        _ => Ok(Some(text)),
    }
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str, line: usize) -> Result<T, ReadError> {
    serde_json::from_str(text).map_err(|error| ReadError::Line { line, reason: error.to_string() })
}
