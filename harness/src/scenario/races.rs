//! Scenarios of the group *connections* in which clients and the signal race, or are made to meet.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Pace, Run, Scenario, Setting, Stop, Target, body, unconfirmed};
use crate::catalog::Feature::{KeepAlive, Limits};
use crate::client::{Answer, Arrivals, Connection, Load, arrive};
use crate::process;
use crate::timeline::{Param, Role};

/// What a link may be late. A server waits for half-open handshakes for a second, and each takes two packets more.
const LINK_SLACK: Duration = Duration::from_millis(250);

/// Longest wait for an answer while nobody stops the server.
const IN_PEACE: Duration = Duration::from_secs(3);

/// Time for what was written to be in the kernel's queues, and for a process to be held.
const HELD: Duration = Duration::from_millis(100);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        slug: "keep-alive-race",
        group: "connections",
        summary: "80 clients ask back to back on keep-alive connections when SIGTERM arrives; several starts, because it is a race.",
        needs: &[KeepAlive],
        rules: &[
            "nothing-lost-on-keep-alive",
            "load-does-not-hold-exit",
            "nothing-lost-in-accept-queue",
            "clean-exit-status",
            "term-ends-process",
        ],
        params: &[(Param::Clients, 80.0), (Param::MaxInFlight, 1000.0), (Param::Rounds, 3.0)],
        pace: Pace::Heavy,
        setting: Setting::Alone,
        body: body!(keep_alive_race),
    },
    Scenario {
        slug: "accept-queue-storm",
        group: "connections",
        summary: "80 clients connect for each request when SIGTERM arrives; several starts, because it is a race.",
        needs: &[],
        rules: &["nothing-lost-in-accept-queue", "load-does-not-hold-exit", "clean-exit-status", "term-ends-process"],
        params: &[(Param::Clients, 80.0), (Param::MaxInFlight, 1000.0), (Param::Rounds, 3.0)],
        pace: Pace::Heavy,
        setting: Setting::Alone,
        body: body!(accept_queue_storm),
    },
    Scenario {
        slug: "held-when-signalled",
        group: "connections",
        summary: "The process is held by SIGSTOP: 64 clients connect and ask, idle connections ask, SIGTERM arrives, and it goes on.",
        needs: &[],
        rules: &[
            "nothing-lost-in-accept-queue",
            "nothing-lost-on-keep-alive",
            "clean-exit-status",
            "term-ends-process",
        ],
        params: &[(Param::Connections, 64.0), (Param::Idle, 16.0), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(held_when_signalled),
    },
    Scenario {
        slug: "held-while-lingering",
        group: "connections",
        summary: "The process is held by SIGSTOP while idle connections linger: they ask, their linger ends, and it goes on.",
        needs: &[KeepAlive, Limits],
        rules: &["nothing-lost-on-keep-alive", "clean-exit-status", "term-ends-process"],
        params: &[(Param::Idle, 16.0), (Param::MaxInFlight, 1000.0), (Param::IdleLinger, 2.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(held_while_lingering),
    },
    Scenario {
        slug: "connect-storm-over-delay",
        group: "connections",
        summary: "Over a link with a round trip of 20 ms 200 clients connect within 100 ms, and SIGTERM arrives in the middle: some are half-way through their handshake.",
        needs: &[],
        rules: &["nothing-lost-in-accept-queue", "clean-exit-status", "term-ends-process"],
        params: &[
            (Param::RoundTrip, 0.02),
            (Param::Connections, 200.0),
            (Param::Over, 0.1),
            (Param::HalfOpen, 5.0),
            (Param::MaxInFlight, 1000.0),
        ],
        pace: Pace::Heavy,
        setting: Setting::Alone,
        body: body!(connect_storm_over_delay),
    },
    Scenario {
        slug: "steady-load",
        group: "connections",
        summary: "Clients on keep-alive and on new connections ask for a second and a half, and no signal comes at all.",
        needs: &[],
        rules: &["nothing-lost-in-peace"],
        params: &[(Param::Clients, 8.0), (Param::Over, 1.5), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Heavy,
        setting: Setting::Alone,
        body: body!(steady_load),
    },
    Scenario {
        slug: "sustained-load-exits",
        group: "connections",
        summary: "Clients on keep-alive and on new connections go on asking until the process has ended.",
        needs: &[],
        rules: &[
            "load-does-not-hold-exit",
            "nothing-lost-on-keep-alive",
            "nothing-lost-in-accept-queue",
            "clean-exit-status",
        ],
        params: &[(Param::Clients, 16.0), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Heavy,
        setting: Setting::Alone,
        body: body!(sustained_load_exits),
    },
];

async fn keep_alive_race(run: &mut Run<'_>) -> Result<(), Stop> {
    for _ in 0..run.param(Param::Rounds) as usize {
        let mut target = run.start().await?;
        let load = run.load(&target, &run.subject.ask(Role::KeepAlive), false)?;
        let ended = under_load(run, &mut target, load).await?;
        target.kill().await; // whatever is left of it, before the next one starts
        if !ended {
            break;
        }
    }
    Ok(())
}

async fn accept_queue_storm(run: &mut Run<'_>) -> Result<(), Stop> {
    for _ in 0..run.param(Param::Rounds) as usize {
        let mut target = run.start().await?;
        let load = run.load(&target, &run.subject.ask(Role::Storm), true)?;
        let ended = under_load(run, &mut target, load).await?;
        target.kill().await;
        if !ended {
            break;
        }
    }
    Ok(())
}

async fn held_when_signalled(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    // One answer shows that the server is at work.
    target.connect(Role::Storm).await?.ask(run.subject.ask(Role::Storm)).await;
    let mut idle = Vec::new();
    if run.has(KeepAlive) {
        for _ in 0..run.param(Param::Idle) as usize {
            let mut connection = target.connect(Role::KeepAlive).await?;
            connection.ask(run.subject.ask(Role::KeepAlive)).await;
            idle.push(connection);
        }
    }
    target.freeze();
    tokio::time::sleep(HELD).await;
    let mut asked = ask_all(run, idle, Role::KeepAlive);
    let mut waiting = Vec::new();
    for _ in 0..run.param(Param::Connections) as usize {
        // A short queue takes no more: they are neither accepted nor refused.
        match tokio::time::timeout(HELD, target.try_connect(Role::Storm)).await {
            Ok(Ok(connection)) => waiting.push(connection),
            _ => break,
        }
    }
    if waiting.is_empty() {
        target.thaw();
        return Err(unconfirmed("the kernel completes handshakes for a process that is held", "it does not"));
    }
    run.confirmed(&format!("{} connections wait in the accept queue", waiting.len()));
    let mut queued = ask_all(run, waiting, Role::Storm);
    tokio::time::sleep(HELD).await;
    target.signal(run.stop_signal());
    target.thaw();
    while asked.join_next().await.is_some() || queued.join_next().await.is_some() {}
    target.exited().await;
    Ok(())
}

async fn held_while_lingering(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut idle = Vec::new();
    for _ in 0..run.param(Param::Idle) as usize {
        let mut connection = target.connect(Role::KeepAlive).await?;
        connection.ask(run.subject.ask(Role::KeepAlive)).await;
        idle.push(connection);
    }
    target.signal(run.stop_signal());
    if !target.listener_closed(run.duration(Param::IdleLinger)).await {
        return Err(unconfirmed("the listener closes", "it was open when the linger was to be over"));
    }
    let closed = Instant::now();
    tokio::time::sleep(run.duration(Param::IdleLinger) / 4).await;
    target.freeze();
    let mut asked = ask_all(run, idle, Role::KeepAlive);
    tokio::time::sleep(HELD).await;
    if closed.elapsed() > run.duration(Param::IdleLinger) * 3 / 4 {
        target.thaw();
        return Err(unconfirmed("connections ask within their linger", "the harness was too slow"));
    }
    // By then both are due: the end of the linger, and what was asked before it.
    tokio::time::sleep_until(closed + run.duration(Param::IdleLinger) * 5 / 4).await;
    target.thaw();
    while asked.join_next().await.is_some() {}
    target.exited().await;
    Ok(())
}

/// Asks once on each of these connections, side by side.
fn ask_all(run: &Run<'_>, connections: Vec<Connection>, role: Role) -> JoinSet<Answer> {
    let mut asked = JoinSet::new();
    for mut connection in connections {
        let ask = run.subject.ask(role);
        asked.spawn(async move { connection.ask(ask).await });
    }
    asked
}

async fn connect_storm_over_delay(run: &mut Run<'_>) -> Result<(), Stop> {
    run.over_link(run.duration(Param::RoundTrip)).await?;
    let mut target = run.start().await?;
    let (connections, over) = (run.param(Param::Connections) as usize, run.duration(Param::Over));
    let mut arrivals = arrive(&run.client, target.address, &run.subject.ask(Role::Storm), connections, over);
    let listed = half_way(run, &target, &arrivals).await?;
    let signalled = Instant::now();
    target.signal(run.stop_signal());
    arrivals.only(connections / 2);
    target.exited().await;
    arrivals.done().await;
    // Handshakes by SYN cookies are in no table: the client's side shows them, once it is known how they ended.
    let half_open = listed.max(arrivals.half_way_at(signalled));
    if half_open < run.param(Param::HalfOpen) as usize {
        return Err(unconfirmed("handshakes are half done when the signal is sent", format!("only {half_open} are")));
    }
    run.confirmed(&format!("{half_open} handshakes are half done when the signal is sent"));
    run.link_in_time(LINK_SLACK)
}

/// Waits for the middle of a storm over a link: half of the clients have arrived, the first have their answers, and
/// enough are half-way through their handshake. Returns how many are, by the kernel's word.
async fn half_way(run: &Run<'_>, target: &Target, arrivals: &Arrivals) -> Result<usize, Stop> {
    let (connections, wanted) = (run.param(Param::Connections) as usize, run.param(Param::HalfOpen) as usize);
    let latest = Instant::now() + Duration::from_secs(2);
    // Where SYN cookies leave the kernel's table empty there is nothing to wait for.
    let mut listed_by = None;
    loop {
        if arrivals.begun() >= connections / 2 && arrivals.answered() > 0 {
            let listed = process::half_open(target.process().place(), target.address.port())
                .map_err(|error| Stop::Io("reading the kernel's table of sockets", error))?;
            if listed >= wanted || Instant::now() > *listed_by.get_or_insert(Instant::now() + run.duration(Param::Over))
            {
                return Ok(listed);
            }
        }
        if Instant::now() > latest {
            return Err(unconfirmed("answers come before the signal", format!("{} have", arrivals.answered())));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn steady_load(run: &mut Run<'_>) -> Result<(), Stop> {
    let target = run.start().await?;
    let ask = |role| run.subject.ask(role).patience(IN_PEACE);
    let storm = run.load(&target, &ask(Role::Storm), true)?;
    let load = run.load(&target, &ask(Role::Sustained), false)?;
    load.warm(run.warm_answers(1)).await?;
    run.confirmed("every client has been answered");
    tokio::time::sleep(run.duration(Param::Over)).await;
    load.stop().await;
    storm.stop().await;
    Ok(())
}

async fn sustained_load_exits(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let storm = run.load(&target, &run.subject.ask(Role::Storm), true)?;
    let load = run.load(&target, &run.subject.ask(Role::Sustained), false)?;
    under_load(run, &mut target, load).await?;
    storm.stop().await;
    Ok(())
}

/// Signals once every client has been answered several times, and lets the load go on until the process is gone;
/// `false` where it does not go.
async fn under_load(run: &mut Run<'_>, target: &mut Target, load: Load) -> Result<bool, Stop> {
    load.warm(run.warm_answers(5)).await?;
    run.confirmed("every client has been answered several times");
    target.signal(run.stop_signal());
    let ended = target.exited().await.is_some();
    load.stop().await;
    Ok(ended)
}
