//! A timeline of which tests look at the records.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use drainspec::client::Client;
use drainspec::recorder::Recorder;
use drainspec::timeline::{Ending, Event, FORMAT, Header, Record};
use tempfile::TempDir;

/// Longer than anything here takes, on a machine that is busy with other things.
pub const BOUND: Duration = Duration::from_secs(60);

/// A header of which nothing is asked.
pub fn header() -> Header {
    Header {
        format: FORMAT,
        scenario: "recording".to_owned(),
        rules: Vec::new(),
        server: "test".to_owned(),
        topology: "direct".to_owned(),
        repeat: 1,
        promises_contract: false,
        features: Vec::new(),
        params: BTreeMap::new(),
        environment: BTreeMap::new(),
        learned: Vec::new(),
    }
}

/// A recorder, its file, and a client that writes to it.
pub struct Tape {
    pub recorder: Recorder,
    pub client: Client,
    folder: TempDir,
}

impl Tape {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(header(), &folder.path().join("timeline.ndjson")).unwrap();
        Self { client: Client::new(recorder.clone()), recorder, folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("timeline.ndjson")
    }

    /// What has happened so far, whatever else the machine had to do meanwhile.
    pub fn events(&self) -> Vec<Event> {
        // A record `finished` is all that looking leaves behind.
        let records = self.recorder.finish().expect("the file can be written").records;
        let events = records.into_iter().map(without_beginning);
        events.filter(|event| !matches!(event, Event::Finished | Event::Starved { .. })).collect()
    }

    /// What has happened once something has: what a process writes takes its way through a pipe.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let began = Instant::now();
        loop {
            let events = self.events();
            if events.iter().any(&wanted) {
                return events;
            }
            assert!(began.elapsed() < BOUND, "{what}: it did not come; there is {events:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A fact without the time at which it began, which has been no later than the record.
fn without_beginning(record: Record) -> Event {
    let Record { t_us, mut event } = record;
    match &mut event {
        Event::Opened { begun_us, .. } | Event::NotOpened { begun_us, .. } => {
            assert!(begun_us.take().is_some_and(|begun| begun <= t_us), "{event:?} at {t_us}");
        }
        Event::Sent { begun_us, .. } => assert!(begun_us.take().is_none_or(|begun| begun <= t_us), "{event:?}"),
        _ => {}
    }
    event
}

/// How connections ended.
pub fn endings(events: &[Event]) -> Vec<Ending> {
    let how = |event: &Event| match event {
        Event::Ended { how, .. } => Some(*how),
        _ => None,
    };
    events.iter().filter_map(how).collect()
}
