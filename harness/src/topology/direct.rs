//! Nothing stands between: each client looks into a table when it connects.

use std::sync::Arc;

use super::{Member, Stage};
use crate::client::{Route, Table};
use crate::recorder::Recorder;
use crate::timeline::{EndpointState, Event};

/// Who sees an instance come and go.
const OBSERVER: &str = "table";

/// A table of instances.
pub struct Direct {
    table: Arc<Table>,
    /// The instance in each place, where there is one.
    members: Vec<Option<Member>>,
    recorder: Recorder,
}

impl Direct {
    pub(super) fn new(stage: &Stage<'_>, members: &[Member]) -> Self {
        let direct = Self {
            table: Arc::default(),
            members: members.iter().copied().map(Some).collect(),
            recorder: stage.recorder.clone(),
        };
        members.iter().for_each(|member| direct.note(*member, EndpointState::Up));
        direct.publish();
        direct
    }

    pub(super) fn route(&self) -> Route {
        Route::Table(self.table.clone())
    }

    pub(super) fn withdraw(&mut self, place: usize) {
        let gone = self.members.get_mut(place).and_then(Option::take);
        self.publish();
        gone.into_iter().for_each(|member| self.note(member, EndpointState::Gone));
    }

    pub(super) fn admit(&mut self, place: usize, member: Member) {
        if let Some(slot) = self.members.get_mut(place) {
            *slot = Some(member);
        }
        self.publish();
        self.note(member, EndpointState::Up);
    }

    fn publish(&self) {
        self.table.set(self.members.iter().flatten().map(|member| member.address).collect());
    }

    fn note(&self, member: Member, state: EndpointState) {
        let observer = OBSERVER.to_owned();
        self.recorder.record(Event::Endpoint { observer, process: member.process, state });
    }
}
