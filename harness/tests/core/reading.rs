//! The reader: what it takes, and what it says of the rest. Whoever wrote the file, it never panics.

use drainspec::timeline::{Event, FORMAT, ReadError, Record, Timeline, read};
use proptest::prelude::*;

use crate::properties::timelines;
use crate::run::stopped;

/// As the recorder writes it.
pub fn written(timeline: &Timeline) -> String {
    let mut text = serde_json::to_string(&timeline.header).unwrap() + "\n";
    for record in &timeline.records {
        text += &(serde_json::to_string(record).unwrap() + "\n");
    }
    text
}

fn small() -> String {
    written(&stopped().exited(0).judged_by(&["clean-exit-status"]))
}

fn refused(text: impl AsRef<[u8]>) -> String {
    match read(text.as_ref()) {
        Ok(timeline) => panic!("taken: {timeline:?}"),
        Err(error) => error.to_string(),
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(timeline in timelines()) {
        let text = written(&timeline);
        let again = read(text.as_bytes());
        prop_assert!(again.is_ok(), "{}", again.unwrap_err());
        prop_assert_eq!(again.unwrap(), timeline);
    }

    #[test]
    fn a_truncated_file_is_an_error(timeline in timelines(), cut in any::<prop::sample::Index>()) {
        let text = written(&timeline);
        // Without its last newline nothing of it is lost.
        let cut = cut.index(text.len() - 1);
        prop_assert!(read(&text.as_bytes()[..cut]).is_err(), "cut at {} of {}", cut, text.len());
    }

    #[test]
    fn a_lost_line_is_an_error_or_says_something_else(timeline in timelines(), lost in any::<prop::sample::Index>()) {
        let text = written(&timeline);
        let lost = lost.index(text.lines().count());
        let rest = text.lines().enumerate().filter(|(at, _)| *at != lost).map(|(_, line)| format!("{line}\n"));
        match read(rest.collect::<String>().as_bytes()) {
            Ok(other) => prop_assert_ne!(other, timeline),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_bytes_are_an_error_with_a_line(bytes in prop::collection::vec(any::<u8>(), 1..400)) {
        let error = refused(&bytes);
        prop_assert!(error.starts_with("line 1: "), "{}", error);
    }

    #[test]
    fn a_garbled_record_is_an_error_with_its_line(
        line in "[^\n\r]{0,60}",
        above in 0usize..5,
    ) {
        prop_assume!(serde_json::from_str::<Record>(&line).is_err());
        let good = small();
        let mut lines: Vec<&str> = good.lines().collect();
        let at = above.min(lines.len() - 1);
        lines.insert(at + 1, &line);
        let error = refused(lines.join("\n"));
        let expected = format!("line {}: ", at + 2);
        prop_assert!(error.starts_with(&expected), "{}", error);
    }

    #[test]
    fn a_changed_byte_never_panics_the_reader(
        timeline in timelines(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = written(&timeline).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let lines = bytes.split(|byte| *byte == b'\n').count();
        if let Err(ReadError::Line { line, reason }) = read(bytes.as_slice()) {
            prop_assert!((1..=lines).contains(&line), "line {} of {}: {}", line, lines, reason);
        }
    }
}

#[test]
fn the_last_newline_may_be_missing() {
    read(small().trim_end().as_bytes()).unwrap();
}

#[test]
fn an_empty_file_says_that_it_is_empty() {
    assert!(refused("").contains("is empty"));
}

#[test]
fn another_format_names_both() {
    let header = small().lines().next().unwrap().replace(&format!("\"format\":{FORMAT}"), "\"format\":7");
    let error = refused(header);
    assert!(error.contains("line 1") && error.contains("format 7"), "{error}");
    assert!(error.contains(&format!("reads formats 1 to {FORMAT}")), "{error}");
    // A format that is to come may have other fields: they are not what is wrong with it.
    assert!(refused("{\"format\":3,\"cells\":[]}\n").contains("format 3"));
}

#[test]
fn every_format_so_far_is_read_and_no_other() {
    for format in 0..=FORMAT + 1 {
        let mut timeline = stopped().exited(0).judged_by(&["clean-exit-status"]);
        timeline.header.format = format;
        match read(written(&timeline).as_bytes()) {
            Ok(again) => assert!(again == timeline && (1..=FORMAT).contains(&format), "format {format}"),
            Err(error) => assert!(error.to_string().contains(&format!("format {format} ")), "format {format}: {error}"),
        }
    }
}

#[test]
fn a_header_alone_is_truncated() {
    let header = small().lines().next().unwrap().to_owned();
    assert!(refused(header).contains("line 1: the timeline is truncated"));
}

#[test]
fn times_only_go_forwards() {
    let mut timeline = stopped().exited(0).judged_by(&[]);
    timeline.records[1].t_us = timeline.records[2].t_us + 1;
    let error = refused(written(&timeline));
    assert!(error.starts_with("line 4: t_us goes backwards, from 1000001 to 1000000"), "{error}");
}

#[test]
fn nothing_comes_after_the_end() {
    let timeline = stopped().judged_by(&[]);
    let last = serde_json::to_string(timeline.records.last().unwrap()).unwrap();
    let error = refused(written(&timeline) + &last + "\n");
    assert!(error.starts_with("line 6: a record after `finished`"), "{error}");
}

#[test]
fn unknown_fields_and_events_are_named() {
    let error = refused(small().replacen("\"repeat\":", "\"repeats\":", 1));
    assert!(error.starts_with("line 1: ") && error.contains("`repeats`"), "{error}");
    let error = refused(small().replacen("\"exited\":{", "\"left\":{", 1));
    assert!(error.starts_with("line 5: ") && error.contains("`left`"), "{error}");
    let error = refused(small().replacen("\"code\":0", "\"status\":0", 1));
    assert!(error.starts_with("line 5: ") && error.contains("`status`"), "{error}");
}

#[test]
fn a_line_has_a_bound() {
    let long =
        format!("{{\"t_us\":200000,\"event\":{{\"log\":{{\"process\":1,\"line\":\"{}\"}}}}}}\n", "x".repeat(1 << 20));
    let mut lines: Vec<String> = small().lines().map(|line| format!("{line}\n")).collect();
    lines.insert(3, long.clone());
    assert!(refused(lines.concat()).starts_with("line 4: is longer than"));
    // However the bytes fall at the bound.
    for shift in 0..3 {
        lines[3] = long.replacen('x', &"x".repeat(1 + shift), 1).replace("xx", "xé");
        assert!(refused(lines.concat()).starts_with("line 4: is longer than"), "shifted by {shift}");
    }
}

#[test]
fn a_timeline_without_settings_is_read() {
    let timeline = stopped().exited(0).judged_by(&[]);
    let text = written(&timeline);
    assert!(text.contains(r#""started":{"process":1,"pid":1001}"#), "empty settings are left out: {text}");
    assert_eq!(read(text.as_bytes()).expect("it is in order"), timeline);
}

#[test]
fn other_encodings_are_named() {
    let mut bytes = small().into_bytes();
    let at = bytes.windows(7).position(|window| window == b"SIGTERM").unwrap();
    bytes[at] = 0xff;
    assert_eq!(refused(bytes), "line 4: is not UTF-8");
}

#[test]
fn the_last_record_says_that_the_run_is_over() {
    let timeline = stopped().exited(0).judged_by(&[]);
    assert_eq!(timeline.records.last().map(|record| &record.event), Some(&Event::Finished));
    let text = written(&timeline);
    let cut: String = text.lines().take(4).map(|line| format!("{line}\n")).collect();
    assert!(refused(cut).starts_with("line 4: the timeline is truncated"));
}
