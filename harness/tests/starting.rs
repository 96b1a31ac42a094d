//! Starting somebody's server: it is given a port, and another one where that is taken.

use std::path::Path;
use std::time::Duration;

use drainspec::check::learn;
use drainspec::process::{Addressee, Launch, free_port};
use drainspec::recorder::Recorder;
use drainspec::runner::plain_header;
use drainspec::scenario::{Manner, Route, Run, Stop, Stranger, Subject};
use drainspec::timeline::{Event, Timeline};
use nix::sys::signal::Signal;

/// Says of its first ports, as many as its second argument, that they are taken; then it serves.
const SERVER: &str = r"
import http.server, os, sys
port, taken = int(sys.argv[1]), int(sys.argv[2])
assert port == int(os.environ['PORT'])
with open('starts', 'a+') as starts:
    starts.write(f'{port}\n')
    starts.seek(0)
    if len(starts.readlines()) <= taken:
        sys.exit('OSError: [Errno 98] Address already in use')
for _ in range(int(sys.argv[3]) * 10**6): pass
http.server.HTTPServer(('127.0.0.1', port), http.server.SimpleHTTPRequestHandler).serve_forever()
";

fn subject(folder: &Path, taken: u32, work: u32, takes_port: bool) -> Subject {
    let (taken, work) = (taken.to_string(), work.to_string());
    let command = ["python3", "-c", SERVER, "{port}", &taken, &work].map(str::to_owned).to_vec();
    Subject {
        name: "somebody".to_owned(),
        launch: Launch { command, folder: folder.to_owned(), env: Default::default(), ..Launch::default() },
        features: Default::default(),
        promises_contract: false,
        params: Vec::new(),
        learned: Vec::new(),
        manner: Manner::Stranger(Box::new(Stranger {
            quick: Route::get("/"),
            slow: None,
            finite: None,
            endless: None,
            upload: None,
            ready: None,
            rate: None,
            headers: Default::default(),
            stop: Signal::SIGTERM,
            to: Addressee::Leader,
            takes_signal: false,
            children: false,
            port: free_port().unwrap(),
            takes_port,
            start_within: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            lame_duck: None,
            ends: true,
            over: Default::default(),
            patience: Default::default(),
        })),
    }
}

/// Starts it once. What came of that, its timeline, and the ports that it was given.
async fn start(taken: u32, takes_port: bool) -> (Result<u16, Stop>, Timeline, Vec<u16>) {
    let folder = tempfile::tempdir().unwrap();
    let subject = subject(folder.path(), taken, 0, takes_port);
    let path = folder.path().join("timeline.ndjson");
    let recorder = Recorder::create(plain_header(&subject, "start"), &path).unwrap();
    let mut run = Run::new(recorder.clone(), &subject, Default::default()).unwrap();
    let started = match run.start().await {
        Ok(target) => {
            target.kill().await;
            Ok(target.address.port())
        }
        Err(stop) => Err(stop),
    };
    let ports = std::fs::read_to_string(folder.path().join("starts")).unwrap();
    (started, recorder.finish().unwrap(), ports.lines().map(|port| port.parse().unwrap()).collect())
}

fn told_taken(timeline: &Timeline) -> Vec<u16> {
    let port = |event: &Event| if let Event::PortTaken { port, .. } = event { Some(*port) } else { None };
    timeline.records.iter().filter_map(|record| port(&record.event)).collect()
}

#[tokio::test]
async fn where_a_port_is_taken_another_one_is_tried_and_the_timeline_says_so() {
    let (started, timeline, ports) = start(2, true).await;
    assert_eq!((started.unwrap(), ports.len()), (ports[2], 3), "{ports:?}");
    assert_eq!(told_taken(&timeline), ports[..2]);
    assert!(ports[0] != ports[1] && ports[1] != ports[2]);
    // Who could not have its port has never been under test.
    let view = drainspec::timeline::View::new(&timeline);
    assert_eq!(view.processes.keys().copied().collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn no_more_than_three_others_are_tried() {
    let (started, _, ports) = start(9, true).await;
    assert!(started.unwrap_err().to_string().contains("already in use"));
    assert_eq!(ports.len(), 4);
}

#[tokio::test]
async fn whoever_takes_no_port_is_told_no_other() {
    let (started, timeline, ports) = start(9, false).await;
    assert!(started.unwrap_err().to_string().contains("already in use"));
    assert!(told_taken(&timeline).is_empty());
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
}

#[tokio::test]
async fn the_processor_time_of_a_start_is_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let mut starting = Vec::new();
    for work in [0, 60] {
        let subjects = [(); 2].map(|()| subject(folder.path(), 0, work, true));
        let recorders = [0, 1].map(|one| Recorder::discard(plain_header(&subjects[one], "learning")));
        starting.push(learn(&subjects[0], &subjects[1], false, recorders).await.unwrap().starting);
    }
    assert!(starting[1] > 2 * starting[0], "{starting:?}");
}
