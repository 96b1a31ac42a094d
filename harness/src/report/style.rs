//! Colours, which only ever repeat what the words say, and lines beside the results.

use std::io::Write;

use anstyle::{AnsiColor, Style};

use crate::verdict::Verdict;

/// The colour of a verdict.
pub fn verdict_style(verdict: Verdict) -> Style {
    let color = match verdict {
        Verdict::Pass => AnsiColor::Green,
        Verdict::Warn | Verdict::Inconclusive => AnsiColor::Yellow,
        Verdict::Fail | Verdict::Error => AnsiColor::Red,
        Verdict::Unsupported | Verdict::Skipped => AnsiColor::BrightBlack,
    };
    color.on_default()
}

/// Text in a style; the stream that it is printed to takes the colour away where nobody wants it.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes a line to standard error. Where nobody reads that any more, nothing is lost that matters.
pub fn tell(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}
