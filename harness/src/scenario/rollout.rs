//! Scenarios of the group *rollout*: several instances and their users, while one instance is replaced after the other.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::run::{LOOK, PATIENCE};
use super::{Fleet, Pace, Run, Scenario, Setting, Stop, body, unconfirmed};
use crate::catalog::Feature::{KeepAlive, LameDuck, Limits, Slow, Streams, Upload};
use crate::client::{Ask, Asking, Connection, Pending, Steady};
use crate::timeline::{Param, Role};

/// The share of requests on connections that are kept.
const KEPT: f64 = 0.5;
/// How long nothing is done between two replacements, and how long the load goes on when all is done.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a killed instance is missing.
const MISSING: Duration = Duration::from_secs(2);
/// So many bursts ask on connections that are about to end, with moments from so long before their end to as long after.
const BURSTS: u32 = 50;
const AROUND: Duration = Duration::from_millis(8);

const RULES: &[&str] =
    &["nothing-lost-in-roll", "nothing-done-twice", "nothing-fails-though-executed", "service-stays", "roll-ends"];
/// An instance that is alone for a while must not turn away what two can take.
const UNLIMITED: (Param, f64) = (Param::MaxInFlight, 1000.0);
const USUAL: [(Param, f64); 4] = [(Param::Instances, 2.0), (Param::Rolls, 1.0), (Param::Rate, 40.0), UNLIMITED];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        slug: "rolling-restart",
        group: "rollout",
        summary: "Each of two instances is replaced, as a deploy does behind this balancer, while users ask at a steady rate.",
        needs: &[],
        rules: RULES,
        params: &USUAL,
        pace: Pace::Steady,
        setting: Setting::Fleet,
        body: body!(rolling_restart),
    },
    Scenario {
        slug: "long-request-across-roll",
        group: "rollout",
        summary: "As rolling-restart, and at each replacement long requests are under way: a slow answer, a stream and an upload.",
        needs: &[Slow, Streams, Upload],
        rules: RULES,
        params: &USUAL,
        pace: Pace::Steady,
        setting: Setting::Singly,
        body: body!(long_request_across_roll),
    },
    Scenario {
        slug: "balancer-reload",
        group: "rollout",
        summary: "The balancer reads its configuration again, several times; no instance is touched.",
        needs: &[],
        rules: &["nothing-lost-in-roll", "nothing-done-twice", "nothing-fails-though-executed", "service-stays"],
        params: &[(Param::Instances, 2.0), (Param::Rolls, 5.0), (Param::Rate, 200.0), UNLIMITED],
        pace: Pace::Steady,
        setting: Setting::Reloading,
        body: body!(balancer_reload),
    },
    Scenario {
        slug: "instance-killed",
        group: "rollout",
        summary: "One of two instances gets SIGKILL, and a successor two seconds later.",
        needs: &[],
        rules: &["nothing-done-twice", "roll-costs"],
        params: &[(Param::Instances, 2.0), (Param::Rate, 100.0), UNLIMITED],
        pace: Pace::Steady,
        setting: Setting::Placed,
        body: body!(instance_killed),
    },
    Scenario {
        slug: "last-instance",
        group: "rollout",
        summary: "The only instance is ended, and followed by another: there is nobody else.",
        needs: &[],
        rules: &["nothing-done-twice", "roll-ends", "roll-costs"],
        params: &[(Param::Instances, 1.0), (Param::Rolls, 1.0), (Param::Rate, 40.0), UNLIMITED],
        pace: Pace::Steady,
        setting: Setting::Singly,
        body: body!(one_deleted),
    },
    Scenario {
        slug: "pod-deleted",
        group: "rollout",
        summary: "One of two pods is deleted, and its ReplicaSet starts another one.",
        needs: &[],
        rules: RULES,
        params: &USUAL,
        pace: Pace::Steady,
        setting: Setting::Pods,
        body: body!(one_deleted),
    },
    Scenario {
        slug: "scale-down",
        group: "rollout",
        summary: "Of two pods one is no longer wanted.",
        needs: &[],
        rules: &["nothing-lost-in-roll", "nothing-done-twice", "nothing-fails-though-executed", "service-stays"],
        params: &USUAL,
        pace: Pace::Steady,
        setting: Setting::Pods,
        body: body!(scale_down),
    },
    Scenario {
        slug: "node-drained",
        group: "rollout",
        summary: "A node is drained: its pods are evicted, as their PodDisruptionBudget allows, and come back on another.",
        needs: &[],
        rules: RULES,
        params: &USUAL,
        pace: Pace::Heavy,
        setting: Setting::Nodes,
        body: body!(node_drained),
    },
    Scenario {
        slug: "slow-withdrawal",
        group: "rollout",
        summary: "Clients hear of the end of an instance only a while after its signal; its lame-duck is longer than that.",
        needs: &[LameDuck],
        rules: RULES,
        params: &[
            (Param::Instances, 2.0),
            (Param::Rolls, 1.0),
            (Param::Rate, 40.0),
            UNLIMITED,
            (Param::ShutdownDelay, 2.5),
            (Param::WithdrawalLag, 1.0),
        ],
        pace: Pace::Steady,
        setting: Setting::Table,
        body: body!(slow_withdrawal),
    },
    Scenario {
        slug: "withdrawal-too-slow",
        group: "rollout",
        summary: "Clients hear of the end of an instance only a while after its signal, and there is no lame-duck.",
        needs: &[],
        rules: &["nothing-done-twice", "roll-ends", "roll-costs"],
        params: &[
            (Param::Instances, 2.0),
            (Param::Rolls, 1.0),
            (Param::Rate, 40.0),
            UNLIMITED,
            (Param::ShutdownDelay, 0.0),
            (Param::WithdrawalLag, 1.0),
        ],
        pace: Pace::Steady,
        setting: Setting::Table,
        body: body!(slow_withdrawal),
    },
    Scenario {
        slug: "no-lame-duck",
        group: "rollout",
        summary: "As rolling-restart, behind what needs a lame-duck, and there is none.",
        needs: &[],
        rules: &["nothing-done-twice", "roll-ends", "roll-costs"],
        params: &[
            (Param::Instances, 2.0),
            (Param::Rolls, 1.0),
            (Param::Rate, 40.0),
            (Param::ShutdownDelay, 0.0),
            UNLIMITED,
        ],
        pace: Pace::Steady,
        setting: Setting::LameDuck,
        body: body!(rolling_restart),
    },
    Scenario {
        slug: "stale-keep-alive",
        group: "rollout",
        summary: "Instances end idle connections sooner than those before them do, and POSTs come just then; nothing is restarted.",
        needs: &[KeepAlive, Limits],
        rules: &["nothing-done-twice", "roll-costs"],
        params: &[(Param::Instances, 2.0), (Param::KeepAliveTimeout, 0.3), (Param::Clients, 8.0)],
        pace: Pace::Steady,
        setting: Setting::Placed,
        body: body!(stale_keep_alive),
    },
];

impl Run<'_> {
    /// A parameter that is a number of things.
    fn count(&self, param: Param) -> usize {
        self.param(param) as usize
    }

    /// Users, who ask for all kinds of things at a steady rate. Returns when each instance has answered some of them.
    async fn users(&self, fleet: &Fleet) -> Result<Steady, Stop> {
        let asks = self.asks();
        self.answers_all(fleet, &asks).await?;
        let asking = Asking { route: fleet.route(), asks, rate: self.param(Param::Rate), kept: KEPT };
        let load = Steady::start(&self.client, asking);
        self.answered_by_all(&load, fleet).await?;
        Ok(load)
    }

    /// What users ask, in turn.
    fn asks(&self) -> Vec<Ask> {
        let subject = self.subject;
        let role = Role::Warmup; // the load gives each its own
        let mut asks = vec![subject.ask(role), subject.ask_posted("a payment", role), subject.ask(role)];
        if self.has(Slow) {
            asks.push(subject.ask_slow(0.3, role));
        }
        asks.push(subject.ask_posted("another one", role));
        if self.has(Streams) {
            asks.push(subject.ask_finite(role));
        }
        // An odd number: so that each comes on connections that are kept, and on those that are not.
        if asks.len() % 2 == 0 {
            asks.push(subject.ask(role));
        }
        asks
    }

    /// Waits until all that users will ask is answered, several times in a row: or what they miss is no doing of the roll.
    async fn answers_all(&self, fleet: &Fleet, asks: &[Ask]) -> Result<(), Stop> {
        let deadline = Instant::now() + 2 * PATIENCE;
        let route = &fleet.route();
        let served = async |ask: &Ask| match self.client.connect_by(route, Role::Warmup).await {
            Ok(mut connection) => connection.ask(ask.clone().patience(PATIENCE)).await.served(),
            Err(_) => false,
        };
        loop {
            let each = asks.iter().cycle().take(2 * asks.len()).map(&served);
            if join_all(each).await.into_iter().all(|served| served) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(unconfirmed("the fleet answers", format!("not within {:?}", 2 * PATIENCE)));
            }
            sleep(10 * LOOK).await;
        }
    }

    /// Waits until each instance has answered somebody.
    async fn answered_by_all(&self, load: &Steady, fleet: &Fleet) -> Result<(), Stop> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let names = fleet.names();
            if names.len() >= fleet.size() && names.iter().all(|name| load.seen().has_answered(name)) {
                self.confirmed("each instance answers users");
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(unconfirmed("each instance answers users", format!("not within {PATIENCE:?}")))
    }

    /// Ends a load some time after all is done: where a successor answers nobody by then, a rule says so.
    async fn no_more_users(&self, load: Steady, fleet: &Fleet) {
        sleep(PAUSE).await;
        let _ = self.answered_by_all(&load, fleet).await;
        load.stop().await;
    }
}

async fn rolling_restart(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    for _ in 0..run.count(Param::Rolls) {
        match fleet.roll(run, PAUSE).await {
            // Somebody answers in the place of a successor: the timeline shows who, and a rule says so.
            Err(Stop::Impostor { .. }) => {
                users.stop().await;
                return Ok(());
            }
            rolled => rolled?,
        }
    }
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

async fn scale_down(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    sleep(PAUSE).await;
    fleet.shrink(run).await?;
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

async fn node_drained(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    sleep(PAUSE).await;
    fleet.drain_node().await?;
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

async fn one_deleted(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    for _ in 0..run.count(Param::Rolls) {
        sleep(PAUSE).await;
        fleet.delete(run, 0).await?;
    }
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

async fn long_request_across_roll(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    for _ in 0..run.count(Param::Rolls) {
        for place in fleet.places() {
            let long = long_requests(run, &fleet).await?;
            fleet.replace(run, place).await?;
            join_all(long.into_iter().map(Pending::finish)).await;
        }
    }
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

/// Puts long requests in flight: so many of each kind that each instance gets some, however the balancer deals them out.
async fn long_requests(run: &Run<'_>, fleet: &Fleet) -> Result<Vec<Pending>, Stop> {
    let seconds = run.param(Param::InFlightFor);
    let subject = run.subject;
    let asks = [
        subject.ask_slow(seconds, Role::InFlight),
        subject.ask_long_stream(seconds, Role::Finite),
        subject.ask_upload(Duration::from_secs_f64(seconds / 15.0), Role::Upload),
    ];
    let mut long = Vec::new();
    for ask in asks {
        for _ in 0..2 * fleet.places().len() {
            let connected = run.client.connect_by(&fleet.route(), ask.role()).await;
            let connection = connected.map_err(|why| unconfirmed("a long request is in flight", why.words()))?;
            long.push(connection.begin(ask.clone().patience(Duration::from_secs_f64(seconds) + PATIENCE)).await);
        }
    }
    Ok(long)
}

async fn balancer_reload(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    for _ in 0..run.count(Param::Rolls) {
        fleet.reload().await?;
        sleep(PAUSE).await;
    }
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

async fn instance_killed(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    sleep(PAUSE).await;
    fleet.kill(run, 0).await;
    sleep(MISSING).await;
    fleet.start_successor(run, 0).await?;
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

async fn slow_withdrawal(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut fleet = run.fleet(run.count(Param::Instances)).await?;
    let users = run.users(&fleet).await?;
    for _ in 0..run.count(Param::Rolls) {
        for place in fleet.places() {
            sleep(PAUSE).await;
            fleet.stop_and_tell_later(run, place, run.duration(Param::WithdrawalLag)).await?;
            fleet.start_successor(run, place).await?;
        }
    }
    run.no_more_users(users, &fleet).await;
    fleet.end().await;
    Ok(())
}

async fn stale_keep_alive(run: &mut Run<'_>) -> Result<(), Stop> {
    let fleet = run.fleet(run.count(Param::Instances)).await?;
    let mut clients: Vec<Option<Connection>> = (0..run.count(Param::Clients)).map(|_| None).collect();
    let idle = run.duration(Param::KeepAliveTimeout);
    for burst in 0..BURSTS {
        clients = join_all(clients.into_iter().map(|client| post(run, &fleet, client))).await;
        // From a little before the end of the connections to a little after it.
        sleep((idle + 2 * AROUND * burst / BURSTS).saturating_sub(AROUND)).await;
    }
    drop(clients);
    fleet.end().await;
    Ok(())
}

/// Posts on a connection that is kept, or on a new one where it has ended; hands it back where it can be kept.
async fn post(run: &Run<'_>, fleet: &Fleet, kept: Option<Connection>) -> Option<Connection> {
    let mut connection = match kept.filter(|connection| connection.ending().is_none()) {
        Some(connection) => connection,
        None => run.client.connect_by(&fleet.route(), Role::KeepAlive).await.ok()?,
    };
    let answer = connection.ask(run.subject.ask_posted("a payment", Role::KeepAlive)).await;
    (answer.served() && !answer.close).then_some(connection)
}
