//! Requests that were to be sent, those among them for which there was no connection.

use std::collections::BTreeMap;

use super::{ConnectionId, End, Micros, NotOpened, Opening, Request, Role, View};

/// A request that was to be sent, and what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'v, 't> {
    /// When it was due.
    pub due: Micros,
    /// When its fate was certain; the end of the run where it never was.
    pub ended: Micros,
    /// What became of it.
    pub fate: Fate,
    /// The request itself, where there was a connection for it.
    pub request: Option<&'v Request<'t>>,
}

/// What became of it. These are never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A complete response with this status.
    Answered(u16),
    /// At least one byte was written, and no complete response came.
    Lost,
    /// Not a byte was written: there was no connection, or it had ended.
    Unsent,
}

impl<'t> View<'t> {
    /// What was to be sent, in the order in which it was due. A connection that could not be made for want of a port or a
    /// descriptor on this side is no attempt.
    pub fn attempts(&self, counts: impl Fn(Role) -> bool) -> Vec<Attempt<'_, 't>> {
        let mut attempts = Vec::new();
        let mut begun: BTreeMap<ConnectionId, Micros> = BTreeMap::new();
        for connection in self.connections.iter().filter(|connection| counts(connection.role)) {
            match connection.opening {
                Opening::Opened => drop(begun.insert(connection.id, connection.begun)),
                Opening::Failed(NotOpened::Refused | NotOpened::TimedOut) => attempts.push(Attempt {
                    due: connection.begun,
                    ended: connection.at,
                    fate: Fate::Unsent,
                    request: None,
                }),
                Opening::Failed(NotOpened::Other) => {}
            }
        }
        for request in self.requests.iter().filter(|request| counts(request.role)) {
            // The first request of a connection was due when connecting began.
            let begun = begun.remove(&request.connection).unwrap_or(request.begun);
            let fate = match request.end {
                End::Answered => Fate::Answered(request.status.unwrap_or_default()),
                End::Unsent => Fate::Unsent,
                End::Lost(_) | End::Open => Fate::Lost,
            };
            let ended = request.ended.unwrap_or(self.end);
            let due = request.due.unwrap_or(begun).min(ended);
            attempts.push(Attempt { due, ended, fate, request: Some(request) });
        }
        attempts.sort_by_key(|attempt| attempt.due);
        attempts
    }
}
