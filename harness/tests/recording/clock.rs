//! The recorder and its heartbeat.

use std::time::Duration;

use drainspec::recorder::Recorder;
use drainspec::timeline::{Event, read};

use crate::record::{Tape, header};

fn confirmed(what: &str) -> Event {
    Event::Confirmed { what: what.to_owned() }
}

#[test]
fn the_file_holds_what_memory_holds_in_the_order_of_time() {
    let tape = Tape::new();
    let writers = ["one", "two", "three"].map(|name| {
        let recorder = tape.recorder.clone();
        std::thread::spawn(move || (0..200).for_each(|_| recorder.record(confirmed(name))))
    });
    for writer in writers {
        writer.join().unwrap();
    }
    let timeline = tape.recorder.finish().unwrap();
    // The reader refuses times that go backwards and a file without its end.
    assert_eq!(read(std::fs::read(tape.path()).unwrap().as_slice()).expect("a timeline"), timeline);
    assert_eq!(timeline.records.len(), 601);
}

#[test]
fn a_record_bears_the_time_of_what_it_records() {
    const PAUSE: Duration = Duration::from_millis(20);
    let tape = Tape::new();
    tape.recorder.record(confirmed("before"));
    std::thread::sleep(PAUSE);
    tape.recorder.record(confirmed("after"));
    let now = tape.recorder.micros(std::time::Instant::now());
    let times: Vec<u64> = tape.recorder.finish().unwrap().records.iter().map(|record| record.t_us).collect();
    assert!(times[1] - times[0] >= PAUSE.as_micros() as u64 && times[1] <= now, "{times:?}, and it is {now}");
}

#[test]
fn a_recorder_that_keeps_nothing_keeps_nothing() {
    let recorder = Recorder::discard(header());
    recorder.record(confirmed("nothing"));
    assert_eq!(recorder.finish().unwrap().records, []);
}

#[tokio::test]
async fn a_harness_that_stalls_says_so() {
    const STALL: Duration = Duration::from_millis(600);
    let tape = Tape::new();
    let heartbeat = tape.recorder.heartbeat();
    tokio::time::sleep(Duration::from_millis(10)).await; // its first beat is due from here on
    std::thread::sleep(STALL); // the only thread of this runtime
    // The timer that was late was due one beat of 50 ms after the stall began, at the latest.
    let due = (STALL - Duration::from_millis(60)).as_micros() as u64;
    let long =
        |event: &Event| matches!(event, Event::Stalled { late_us, within_us } if (due..=*within_us).contains(late_us));
    tape.until("a stall", long).await;
    drop(heartbeat);
}

#[tokio::test]
async fn short_stalls_add_up_to_a_record() {
    const STALL: Duration = Duration::from_millis(15); // less than what is worth a record
    let tape = Tape::new();
    let heartbeat = tape.recorder.heartbeat();
    for _ in 0..20 {
        // The beat is due somewhere in here.
        let until = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < until {
            std::thread::sleep(STALL);
            tokio::task::yield_now().await;
        }
    }
    let events = tape.until("a stall", |event| matches!(event, Event::Stalled { .. })).await;
    drop(heartbeat);
    let told = |event: &Event| matches!(event, Event::Stalled { late_us, within_us } if late_us <= within_us);
    assert!(events.iter().all(told), "{events:?}");
}
