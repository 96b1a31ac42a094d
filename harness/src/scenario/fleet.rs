//! Several instances of a server behind whatever stands between them and their clients, replaced one after the other.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::run::{LOOK, PATIENCE, Run};
use super::stop::{Stop, unconfirmed};
use super::target::Target;
use crate::catalog::Feature;
use crate::client::Route;
use crate::process;
use crate::recorder::Recorder;
use crate::timeline::{Event, Role, Slot, StepKind};
use crate::topology::{self, Act, Ending, Front, Member, Stage, Wanted};

/// No pod takes longer to end: its grace is a matter of seconds here.
const LONGEST: Duration = Duration::from_secs(600);
/// So often another port is tried, where somebody has taken the one that was free.
const OTHER_PORTS: u32 = 3;

/// Instances and what stands before them. Dropping it kills them all.
pub struct Fleet {
    front: Front,
    /// Those that were started here; a cluster starts its own.
    instances: Vec<Target>,
    size: usize,
}

impl Run<'_> {
    /// Starts so many instances, and whatever stands before them.
    ///
    /// # Errors
    /// When an instance does not start, or what stands before it does not.
    pub async fn fleet(&mut self, size: usize) -> Result<Fleet, Stop> {
        if self.topology.is_cluster() {
            return self.deploy(size).await;
        }
        self.environment = topology::environment(&self.topology).await?;
        let mut instances = Vec::new();
        for slot in 1..=size {
            instances.push(self.start_anywhere(slot as Slot).await?);
        }
        let front = self.start_front(&instances).await?;
        Ok(Fleet { front, instances, size })
    }

    /// Has a cluster start so many instances.
    async fn deploy(&mut self, size: usize) -> Result<Fleet, Stop> {
        let variables =
            self.params.iter().filter_map(|(param, value)| Some((param.variable()?.to_owned(), value.to_string())));
        let wanted = Wanted { server: &self.subject.name, instances: size, environment: variables.collect() };
        let stage = Stage { recorder: &self.recorder, folder: self.folder.path(), process: 1 };
        let front = Front::deploy(&self.topology, &stage, &wanted).await?;
        Ok(Fleet { front, instances: Vec::new(), size })
    }

    /// Starts one process, and what stands before it: clients come through that.
    pub(super) async fn start_behind(&mut self) -> Result<Target, Stop> {
        let target = self.start_anywhere(1).await?;
        let front = self.start_front(std::slice::from_ref(&target)).await?;
        let target = target.behind(front.route());
        self.front = Some(front);
        Ok(target)
    }

    async fn start_front(&mut self, instances: &[Target]) -> Result<Front, Stop> {
        let members: Vec<Member> = instances.iter().map(member).collect();
        let stage = Stage { recorder: &self.recorder, folder: self.folder.path(), process: self.processes + 1 };
        self.processes += 2;
        Ok(Front::start(&self.topology, &stage, &members).await?)
    }

    /// Starts an instance on a port that is its place's from then on.
    async fn start_anywhere(&mut self, slot: Slot) -> Result<Target, Stop> {
        let mut others = 0;
        loop {
            let port = process::free_port().map_err(|error| Stop::Io("looking for a free port", error))?;
            match self.start_in(slot, port).await {
                Err(stop) if stop.is_taken() && others < OTHER_PORTS => others += 1,
                started => return started,
            }
            self.recorder.record(Event::PortTaken { process: self.processes, port });
        }
    }

    /// Starts an instance in its place, and waits until it says that it is ready, where nobody else asks it.
    async fn start_in(&mut self, slot: Slot, port: u16) -> Result<Target, Stop> {
        self.slot = Some(slot);
        let started = self.start_with(&[("PORT", &port.to_string())]).await;
        self.slot = None;
        let target = started?;
        let deadline = Instant::now() + PATIENCE;
        while !self.topology.is_pods() && self.has(Feature::Health) && !self.is_ready(&target).await {
            if Instant::now() > deadline {
                return Err(unconfirmed("the instance is ready", format!("not within {PATIENCE:?}")));
            }
            sleep(LOOK).await;
        }
        Ok(target)
    }

    async fn is_ready(&self, target: &Target) -> bool {
        let Ok(mut connection) = target.try_connect(Role::Ready).await else { return false };
        let answer = connection.ask(self.subject.ask_ready().patience(Duration::from_secs(2))).await;
        answer.status.is_some_and(|status| !self.subject.is_unready(status))
    }
}

impl Fleet {
    /// Where clients find it.
    pub fn route(&self) -> Route {
        self.front.route()
    }

    /// The places in it.
    pub fn places(&self) -> std::ops::Range<usize> {
        0..self.instances.len()
    }

    /// How many instances it has, but for those that come and go.
    pub fn size(&self) -> usize {
        self.size
    }

    /// What the instances are called that are there now.
    pub fn names(&self) -> Vec<String> {
        match &self.front {
            Front::Cluster(deployed) => deployed.names(),
            _ => self.instances.iter().filter_map(|one| one.instance().map(str::to_owned)).collect(),
        }
    }

    /// Replaces all instances, one after the other, after a pause each.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub async fn roll(&mut self, run: &mut Run<'_>, pause: Duration) -> Result<(), Stop> {
        if let Front::Cluster(deployed) = &mut self.front {
            sleep(pause).await;
            return Ok(deployed.roll().await?);
        }
        for place in self.places() {
            sleep(pause).await;
            self.replace(run, place).await?;
        }
        Ok(())
    }

    /// Replaces an instance as a deploy does behind this topology: withdraw it, stop it, start its successor, admit that.
    ///
    /// # Errors
    /// When the successor does not start, or what stands before it does not do its part.
    pub async fn replace(&mut self, run: &mut Run<'_>, place: usize) -> Result<(), Stop> {
        if run.topology.is_pods() {
            return self.roll_pod(run, place).await;
        }
        self.withdraw(run, place).await?;
        self.stop_instance(run, place).await;
        self.start_successor(run, place).await
    }

    /// Withdraws an instance before it is stopped.
    ///
    /// # Errors
    /// When the balancer does not do its part.
    pub async fn withdraw(&mut self, run: &Run<'_>, place: usize) -> Result<(), Stop> {
        step(run, place, StepKind::Withdraw);
        Ok(self.front.withdraw(place).await?)
    }

    /// Stops an instance by the signal, and kills it where it does not end in all the time that it has.
    pub async fn stop_instance(&mut self, run: &Run<'_>, place: usize) {
        step(run, place, StepKind::Stop);
        self.instances[place].signal(run.stop_signal());
        self.ended(place).await;
    }

    /// Waits for the end of an instance, and kills it where it does not come.
    async fn ended(&self, place: usize) {
        let old = &self.instances[place];
        if old.exited().await.is_none() {
            old.kill().await;
        }
    }

    /// Kills an instance, without a word to anybody.
    pub async fn kill(&mut self, run: &Run<'_>, place: usize) {
        step(run, place, StepKind::Stop);
        let old = &mut self.instances[place];
        old.signal(Signal::SIGKILL);
        old.exited_within(PATIENCE).await;
    }

    /// Starts the successor of an instance that has ended, and admits it.
    ///
    /// # Errors
    /// When it does not start, or the balancer does not take it in.
    pub async fn start_successor(&mut self, run: &mut Run<'_>, place: usize) -> Result<(), Stop> {
        step(run, place, StepKind::Start);
        let port = self.instances[place].address.port();
        self.instances[place] = run.start_in(place as Slot + 1, port).await?;
        step(run, place, StepKind::Admit);
        self.front.admit(place, member(&self.instances[place])).await?;
        step(run, place, StepKind::Done);
        Ok(())
    }

    /// Replaces a pod as a Deployment does that allows one more, and none less: the successor has to be ready first.
    async fn roll_pod(&mut self, run: &mut Run<'_>, place: usize) -> Result<(), Stop> {
        step(run, place, StepKind::Start);
        let next = run.start_anywhere(place as Slot + 1).await?;
        step(run, place, StepKind::Admit);
        self.front.admit(place, member(&next)).await?;
        let old = std::mem::replace(&mut self.instances[place], next);
        step(run, place, StepKind::Withdraw);
        let ending = self.front.delete(old.id());
        end_pod(&run.recorder, place, run.stop_signal(), old, ending).await;
        step(run, place, StepKind::Done);
        Ok(())
    }

    /// Ends an instance before its successor is there, as whoever has room for one only: of a pod its ReplicaSet starts
    /// another at once, of other instances the place has to be free first.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub async fn delete(&mut self, run: &mut Run<'_>, place: usize) -> Result<(), Stop> {
        if let Front::Cluster(deployed) = &mut self.front {
            return Ok(deployed.delete_one().await?);
        }
        if !run.topology.is_pods() {
            return self.replace(run, place).await;
        }
        step(run, place, StepKind::Withdraw);
        let old = self.instances.remove(place);
        let ending = self.front.delete(old.id());
        let (recorder, signal) = (run.recorder.clone(), run.stop_signal());
        let successor = async {
            step(run, place, StepKind::Start);
            let next = run.start_anywhere(place as Slot + 1).await?;
            step(run, place, StepKind::Admit);
            self.front.admit(place, member(&next)).await?;
            Ok::<_, Stop>(next)
        };
        let ((), next) = tokio::join!(end_pod(&recorder, place, signal, old, ending), successor);
        self.instances.insert(place, next?);
        step(run, place, StepKind::Done);
        Ok(())
    }

    /// Has one instance less.
    ///
    /// # Errors
    /// When the topology does not do its part.
    pub async fn shrink(&mut self, run: &Run<'_>) -> Result<(), Stop> {
        self.size -= 1;
        if let Front::Cluster(deployed) = &mut self.front {
            return Ok(deployed.scale(self.size).await?);
        }
        let place = self.size;
        step(run, place, StepKind::Withdraw);
        let old = self.instances.remove(place);
        let ending = self.front.delete(old.id());
        end_pod(&run.recorder, place, run.stop_signal(), old, ending).await;
        step(run, place, StepKind::Done);
        Ok(())
    }

    /// Has all instances leave one node, where there are nodes.
    ///
    /// # Errors
    /// When the cluster does not do its part.
    pub async fn drain_node(&mut self) -> Result<(), Stop> {
        match &mut self.front {
            Front::Cluster(deployed) => Ok(deployed.drain_node().await?),
            _ => Ok(()),
        }
    }

    /// Lets the balancer read its configuration again.
    ///
    /// # Errors
    /// When it does not do its part.
    pub async fn reload(&mut self) -> Result<(), Stop> {
        Ok(self.front.reload().await?)
    }

    /// Stops an instance, and withdraws it so much later: whoever is to know of it hears of it only then.
    ///
    /// # Errors
    /// When the balancer does not do its part.
    pub async fn stop_and_tell_later(&mut self, run: &Run<'_>, place: usize, lag: Duration) -> Result<(), Stop> {
        step(run, place, StepKind::Stop);
        self.instances[place].signal(run.stop_signal());
        sleep(lag).await;
        self.withdraw(run, place).await?;
        self.ended(place).await;
        Ok(())
    }

    /// Ends what stands before it, and then the instances.
    pub async fn end(self) {
        self.front.stop().await;
        for instance in self.instances {
            instance.kill().await;
        }
    }
}

fn step(run: &Run<'_>, place: usize, what: StepKind) {
    run.recorder.record(Event::Step { slot: place as Slot + 1, what });
}

/// Does to the process of a pod what its kubelet says, until it has ended.
async fn end_pod(recorder: &Recorder, place: usize, signal: Signal, mut old: Target, ending: Option<Ending>) {
    let Some(mut ending) = ending else { return };
    while let Some(act) = next_act(&mut ending, &old).await {
        if act == Act::Terminate {
            recorder.record(Event::Step { slot: place as Slot + 1, what: StepKind::Stop });
        }
        old.signal(if act == Act::Terminate { signal } else { Signal::SIGKILL });
    }
    ending.exited();
}

fn member(target: &Target) -> Member {
    let address = SocketAddr::from(([127, 0, 0, 1], target.address.port()));
    Member { process: target.id(), address, admin: target.admin }
}

/// What is to be done next to the process of a pod; nothing any more where it has ended.
async fn next_act(ending: &mut Ending, old: &Target) -> Option<Act> {
    tokio::select! {
        act = ending.next() => act,
        _ = old.exited_within(LONGEST) => None,
    }
}
