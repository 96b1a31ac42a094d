//! Bytes into lines, whatever comes and however long they are.

/// Longest line that is kept, in bytes.
const MOST: usize = 8 << 10;

/// Cuts a stream into lines. Of one that is too long the first part is kept.
#[derive(Default)]
pub struct Splitter {
    line: Vec<u8>,
}

impl Splitter {
    /// Takes what came next, and hands over each line that is complete by then.
    pub fn feed(&mut self, chunk: &[u8], mut take: impl FnMut(String)) {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            self.line.extend_from_slice(&text[..text.len().min(MOST - self.line.len())]);
            if part.ends_with(b"\n") {
                take(self.take());
            }
        }
    }

    /// The last line, where the stream did not end with an end of line.
    pub fn rest(mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_in_whichever_pieces_they_come() {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for chunk in ["one\ntw", "o\n", "", "\nla", "st"] {
            splitter.feed(chunk.as_bytes(), |line| lines.push(line));
        }
        assert_eq!(lines, ["one", "two", ""]);
        assert_eq!(splitter.rest().as_deref(), Some("last"));
    }

    #[test]
    fn of_a_line_without_end_the_first_part_is_kept() {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for _ in 0..3 {
            splitter.feed(&[b'x'; MOST], |line| lines.push(line));
        }
        splitter.feed(b"\n\xff\n", |line| lines.push(line));
        assert_eq!((lines[0].len(), lines[1].as_str(), splitter.rest()), (MOST, "\u{fffd}", None));
    }
}
