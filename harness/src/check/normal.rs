//! What is normal: what a route gets while nobody stops the server, and what of that does not change.

use std::time::{Duration, Instant};

use crate::client::{Answer, Ask, Connection, Expected, Framing, Outcome};
use crate::scenario::{Normal, Stop, Target, starved, unconfirmed};
use crate::timeline::Role;

/// Longest wait for the end of an answer.
const LONGEST: Duration = Duration::from_secs(30);
/// A response that goes on so long after its head, with bytes still coming, has no end of its own.
const ENDLESS_AFTER: Duration = Duration::from_secs(8);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// Samples of one route from one instance that are further apart than this show what changes with the time.
const SPREAD: Duration = Duration::from_secs(1);
/// Pause between two samples.
const GAP: Duration = Duration::from_millis(350);
/// A route that takes longer is asked no more often than it must be.
const LONG: Duration = Duration::from_millis(500);
/// Attempts at one sample: a server may lose requests in peace.
const ATTEMPTS: usize = 3;

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at: Instant,
    pub took: Duration,
    pub status: u16,
    bytes: u64,
    digest: u64,
    framing: Framing,
}

/// What came of watching a route.
#[derive(Debug, Clone)]
pub(super) enum Watched {
    /// It answers, and the answers end.
    Ends(Vec<Sample>),
    /// Its answer has no end.
    Endless,
}

/// How often a route is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Over more than a second: what changes with the time shows.
    Spread,
    /// Once or twice: what changes from start to start shows.
    Brief,
}

/// Asks one route several times.
pub(super) async fn watch(target: &Target, ask: &Ask, what: &str, depth: Depth) -> Result<Watched, Stop> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut open: Option<Connection> = None;
    let mut failed = 0;
    loop {
        let connection = match open.take().filter(|connection| connection.ending().is_none()) {
            Some(connection) => connection,
            None => connect(target).await?,
        };
        let at = Instant::now();
        let answer = match to_its_end(connection, ask).await {
            None => return Ok(Watched::Endless),
            Some((answer, connection)) => {
                open = Some(connection).filter(|_| !answer.close);
                answer
            }
        };
        match (answer.outcome, answer.status, answer.framing) {
            (Outcome::Answered, Some(status), Some(framing)) => {
                let (took, bytes, digest) = (at.elapsed(), answer.bytes, answer.digest());
                samples.push(Sample { at, took, status, bytes, digest, framing });
            }
            (outcome, ..) => {
                failed += 1;
                if failed == ATTEMPTS {
                    return Err(unconfirmed("the server answers", format!("{what}: {outcome}")));
                }
                continue;
            }
        }
        let enough = match depth {
            Depth::Spread => samples.len() > 1 && at.duration_since(samples[0].at) >= SPREAD,
            Depth::Brief => samples.len() > 1 || samples[0].took > LONG,
        };
        if enough {
            return Ok(Watched::Ends(samples));
        }
        if depth == Depth::Spread {
            tokio::time::sleep(GAP.saturating_sub(at.elapsed())).await;
        }
    }
}

async fn connect(target: &Target) -> Result<Connection, Stop> {
    target.connect(Role::Warmup).await.map_err(|stop| if target.starved() { starved() } else { stop })
}

/// Asks once, and follows the response until it ends; `None` where it is clear that it will not.
async fn to_its_end(connection: Connection, ask: &Ask) -> Option<(Answer, Connection)> {
    let pending = connection.begin(ask.clone().patience(LONGEST)).await;
    if pending.answering(LONGEST).await {
        let (headed, mut half) = (Instant::now(), None);
        while pending.is_open() && headed.elapsed() < LONGEST {
            let so_far = pending.received();
            if headed.elapsed() > ENDLESS_AFTER / 2 {
                half.get_or_insert(so_far);
            }
            if headed.elapsed() > ENDLESS_AFTER && half < Some(so_far) {
                pending.leave().await;
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    pending.finish_open().await
}

/// What two instances have in common, at moments more than a second apart. Where the content holds an instance's id, a
/// counter or the time, its length may change as well one day, and is not expected of a third one. `None` where there is
/// no sample.
pub(super) fn normal(first: &[Sample], second: &[Sample]) -> Option<Normal> {
    let all = || first.iter().chain(second).filter(|sample| sample.status != 429 || first[0].status == 429);
    let mut by_time: Vec<&Sample> = all().collect();
    by_time.sort_by_key(|sample| sample.took);
    let middle = by_time.get(by_time.len() / 2)?;
    let times = || all().map(|sample| sample.at);
    let apart = times().max()?.duration_since(times().min()?) >= Duration::from_secs(1);
    let status = all().all(|sample| sample.status == middle.status).then_some(middle.status);
    let stable = apart && !first.is_empty() && !second.is_empty() && status.is_some();
    let same = |of: fn(&Sample) -> u64| stable && all().all(|sample| of(sample) == of(middle));
    // A body that says its length cannot be cut unseen, and what it says may change with the phase.
    let tells = middle.framing == Framing::Length;
    let bytes = (!tells && same(|sample| sample.bytes) && same(|sample| sample.digest)).then_some(middle.bytes);
    let due =
        Expected { status, bytes, echo: false, cut_hidden: middle.framing == Framing::UntilEnd && bytes.is_none() };
    Some(Normal { due, framing: middle.framing, takes: middle.took })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(began: Instant, of: &[(u64, u16, u64, u64)]) -> Vec<Sample> {
        let sample = |(ms, status, bytes, digest): &(u64, u16, u64, u64)| Sample {
            at: began + Duration::from_millis(*ms),
            took: Duration::from_millis(5),
            status: *status,
            bytes: *bytes,
            digest: *digest,
            framing: Framing::Chunked,
        };
        of.iter().map(sample).collect()
    }

    #[test]
    fn only_what_never_changes_is_expected() {
        let began = Instant::now();
        let due = |first: &[_], second: &[_]| normal(&samples(began, first), &samples(began, second)).unwrap().due;
        let expected = |bytes| Expected { status: Some(200), bytes, ..Expected::default() };
        let same = due(&[(0, 200, 9, 1), (1_300, 200, 9, 1)], &[(900, 200, 9, 1)]);
        assert_eq!(same, expected(Some(9)));
        let by_start = due(&[(0, 200, 9, 1), (1_300, 200, 9, 1)], &[(900, 200, 9, 2)]);
        assert_eq!(by_start, expected(None));
        let by_time = due(&[(0, 200, 9, 1), (1_300, 200, 10, 2)], &[(900, 200, 9, 1)]);
        assert_eq!(by_time, expected(None));
        let mut told = samples(began, &[(0, 200, 9, 1), (1_300, 200, 9, 1)]);
        told.iter_mut().for_each(|sample| sample.framing = Framing::Length);
        assert_eq!(normal(&told, &told).unwrap().due, expected(None), "its length comes with it");
        let one_start = due(&[(0, 200, 9, 1), (1_300, 200, 9, 1)], &[]);
        assert_eq!(one_start, expected(None));
        let one_moment = due(&[(0, 200, 9, 1)], &[(100, 200, 9, 1)]);
        assert_eq!(one_moment, expected(None));
        let flaky = due(&[(0, 200, 9, 1), (1_300, 500, 9, 1)], &[(900, 200, 9, 1)]);
        assert_eq!(flaky, Expected::default());
        let limited = due(&[(0, 200, 9, 1), (1_300, 429, 3, 7)], &[(900, 200, 9, 1)]);
        assert_eq!(limited.status, Some(200));
    }
}
