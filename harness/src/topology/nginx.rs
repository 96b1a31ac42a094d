//! nginx, with one of the configurations of `lb-configs/nginx`.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio_util::task::AbortOnDropHandle;

use super::configured::{Configured, Program, children, gone};
use super::tail::tail;
use super::{FrontError, Member, Stage, spare_places};
use crate::catalog::{Topology, Withdrawal};
use crate::client::Route;
use crate::process::{Addressee, Spawned};
use crate::recorder::Recorder;
use crate::timeline::{EndpointState, Event, ProcessId};

const NGINX: Program = Program {
    name: "nginx",
    install: "apt-get install nginx-light, or ./scripts/setup.sh",
    test: &["-t", "-q", "-p", ".", "-c", "nginx.conf", "-g", WORKERS],
    run: &["-p", ".", "-c", "nginx.conf", "-g", FOREGROUND],
    without: |line| line.replacen(';', " down;", 1),
};

/// Started by root it would run its workers as somebody who may not enter the folder of the run.
const WORKERS: &str = "user root;";
const FOREGROUND: &str = "user root; daemon off;";

/// How long old workers may take to end after a reload: as long as the configurations give them, and a little more.
const OLD_END_WITHIN: Duration = Duration::from_secs(75);
/// Who it is in the timeline.
const OBSERVER: &str = "nginx";

/// An nginx that runs.
pub struct Nginx {
    process: Spawned,
    configured: Configured,
    withdraw: Withdrawal,
    /// The places that get nothing.
    without: BTreeSet<usize>,
    members: Vec<Member>,
    recorder: Recorder,
    _logs: [AbortOnDropHandle<()>; 2],
}

impl Nginx {
    pub(super) async fn start(topology: &Topology, stage: &Stage<'_>, members: &[Member]) -> Result<Self, FrontError> {
        let configured = Configured::new(&NGINX, topology, stage, members)?;
        let without = spare_places(&configured.instances, members);
        configured.write(&without)?;
        let process = configured.start(stage).await?;
        let (id, recorder) = (process.id, stage.recorder.clone());
        let errors = tail(configured.folder.join("error.log"), {
            let recorder = recorder.clone();
            move |line| recorder.record(Event::Stderr { process: id, line })
        });
        let accesses = tail(configured.folder.join("access.log"), told(id, recorder.clone()));
        let (members, withdraw) = (members.to_vec(), topology.spec.withdraw);
        Ok(Self { process, configured, withdraw, without, members, recorder, _logs: [errors, accesses] })
    }

    pub(super) fn route(&self) -> Route {
        Route::One(self.configured.listen)
    }

    pub(super) async fn withdraw(&mut self, place: usize) -> Result<(), FrontError> {
        if self.withdraw == Withdrawal::Reload {
            self.without.insert(place);
            self.configured.write(&self.without)?;
            self.reload().await?;
            self.note(place, EndpointState::Gone);
        }
        Ok(())
    }

    pub(super) async fn admit(&mut self, place: usize, member: Member) -> Result<(), FrontError> {
        if let Some(slot) = self.members.get_mut(place) {
            *slot = member;
        }
        if self.withdraw == Withdrawal::Reload {
            self.without.remove(&place);
            self.configured.write(&self.without)?;
            self.reload().await?;
            self.note(place, EndpointState::Up);
        }
        Ok(())
    }

    /// Returns when no worker of the old configuration is left: until then they send requests as it says.
    pub(super) async fn reload(&mut self) -> Result<(), FrontError> {
        self.configured.test().await?;
        let old = children(&self.process);
        self.recorder.record(Event::Reloaded { process: self.process.id });
        self.process.signal(Signal::SIGHUP, Addressee::Leader);
        match gone(&self.process, &old, OLD_END_WITHIN).await {
            true => Ok(()),
            false => {
                let what = "the workers of nginx that a reload replaces have ended".to_owned();
                Err(FrontError::Late { what, within: OLD_END_WITHIN })
            }
        }
    }

    pub(super) async fn stop(self) {
        self.process.kill().await;
    }

    fn note(&self, place: usize, state: EndpointState) {
        if let Some(member) = self.members.get(place) {
            let observer = OBSERVER.to_owned();
            self.recorder.record(Event::Endpoint { observer, process: member.process, state });
        }
    }
}

/// Records what the access log says of requests that were asked more than one instance, or that failed.
fn told(process: ProcessId, recorder: Recorder) -> impl FnMut(String) + Send + 'static {
    /// So many of them.
    const MOST: u32 = 2_000;
    let mut lines = 0;
    move |line| {
        let said =
            |key: &str| serde_json::from_str::<serde_json::Value>(&line).ok()?.get(key)?.as_str().map(str::to_owned);
        let again = said("upstreams").is_some_and(|upstreams| upstreams.contains(','));
        let failed = said("status").is_some_and(|status| status.starts_with('5') || status == "499");
        if (again || failed) && lines < MOST {
            lines += 1;
            recorder.record(Event::Log { process, line });
        }
    }
}
