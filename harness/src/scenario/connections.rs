//! Scenarios of the group *connections*.

use std::time::Duration;

use tokio::time::Instant;

use super::run::unconfirmed;
use super::{Pace, Run, Scenario, Stop, Target, body};
use crate::catalog::Feature::{KeepAlive, LameDuck, Limits, Slow};
use crate::client::{Arrivals, Load, arrive, back_to_back, connect_storm};
use crate::process;
use crate::timeline::{Param, Role};

/// What a drain may take to close the listener, before a scenario goes on without it.
const CLOSES: Duration = Duration::from_secs(4);

/// What a link may be late. A server waits for half-open handshakes for a second, and each takes two packets more.
const LINK_SLACK: Duration = Duration::from_millis(250);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        slug: "idle-keep-alive-closes",
        group: "connections",
        summary: "Five connections have answered and wait when SIGTERM arrives; so does one whose client is deaf to FIN.",
        needs: &[KeepAlive],
        rules: &["idle-closed-by-fin", "idle-holds-nothing", "listener-closes-first", "clean-exit-status"],
        params: &[],
        pace: Pace::Short,
        body: body!(idle_keep_alive_closes),
    },
    Scenario {
        slug: "unused-connection-closes",
        group: "connections",
        summary: "Five connections on which nothing was sent are open when SIGTERM arrives.",
        needs: &[],
        rules: &["idle-closed-by-fin", "unused-holds-nothing", "listener-closes-first", "clean-exit-status"],
        params: &[],
        pace: Pace::Short,
        body: body!(unused_connection_closes),
    },
    Scenario {
        slug: "late-request-on-keep-alive",
        group: "connections",
        summary: "Idle connections ask once more after the listener closed: at once, and late in their linger.",
        needs: &[KeepAlive, Slow],
        rules: &["late-request-answered", "in-flight-answered", "clean-exit-status", "term-ends-process"],
        params: &[(Param::IdleLinger, 3.0)],
        pace: Pace::Long,
        body: body!(late_request_on_keep_alive),
    },
    Scenario {
        slug: "late-request-rejected",
        group: "connections",
        summary: "With DRAIN_POLICY=reject a connection asks in the lame-duck and another after the listener closed, while a request is in flight.",
        needs: &[KeepAlive, Slow, Limits, LameDuck],
        rules: &[
            "late-request-answered",
            "lame-duck-serves",
            "in-flight-answered",
            "clean-exit-status",
            "term-ends-process",
        ],
        params: &[(Param::ShutdownDelay, 1.5), (Param::IdleLinger, 3.0)],
        pace: Pace::Long,
        body: body!(late_request_rejected),
    },
    Scenario {
        slug: "keep-alive-race",
        group: "connections",
        summary: "80 clients ask back to back on keep-alive connections when SIGTERM arrives.",
        needs: &[KeepAlive],
        rules: &["nothing-lost-on-keep-alive", "clean-exit-status", "term-ends-process"],
        params: &[(Param::Clients, 80.0), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Heavy,
        body: body!(keep_alive_race),
    },
    Scenario {
        slug: "new-connection-refused",
        group: "connections",
        summary: "A client connects while a request drains.",
        needs: &[Slow],
        rules: &["new-connections-refused", "in-flight-answered", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        body: body!(new_connection_refused),
    },
    Scenario {
        slug: "accept-queue-storm",
        group: "connections",
        summary: "80 clients connect for each request when SIGTERM arrives.",
        needs: &[],
        rules: &["nothing-lost-in-accept-queue", "clean-exit-status", "term-ends-process"],
        params: &[(Param::Clients, 80.0), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Heavy,
        body: body!(accept_queue_storm),
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
        body: body!(connect_storm_over_delay),
    },
    Scenario {
        slug: "sustained-load-exits",
        group: "connections",
        summary: "Clients on keep-alive and on new connections go on asking until the process has ended.",
        needs: &[],
        rules: &["load-does-not-hold-exit", "nothing-lost-on-keep-alive", "clean-exit-status"],
        params: &[(Param::Clients, 16.0), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Heavy,
        body: body!(sustained_load_exits),
    },
    Scenario {
        slug: "immediate-rebind",
        group: "connections",
        summary: "A successor starts on the same port as soon as the process has exited.",
        needs: &[],
        rules: &["port-free-after-exit", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        body: body!(immediate_rebind),
    },
];

async fn idle_keep_alive_closes(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(run.used_connection(&target, Role::Idle).await?);
    }
    // One more, whose client never looks again and so never closes.
    let mut deaf = target.connect_raw(Role::Idle).await?;
    let (id, head) = deaf.head("GET", "/", "");
    deaf.announce(&id, Role::Warmup, "/", None);
    deaf.write(head.as_bytes()).await;
    deaf.answer(&id, None).await;
    if idle.iter().any(|connection| connection.ending().is_some()) {
        return Err(unconfirmed("idle connections stay open", "the server closed one after its first response"));
    }
    run.confirmed("six connections are idle");
    target.signal(run.stop_signal());
    target.exited().await;
    drop(deaf);
    for connection in idle {
        connection.ended(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn unused_connection_closes(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut unused = Vec::new();
    for _ in 0..5 {
        unused.push(target.connect(Role::Unused).await?);
    }
    // Accepted in order: once a later one has answered, these have been accepted.
    run.used_connection(&target, Role::Warmup).await?;
    run.confirmed("five connections are open and unused");
    target.signal(run.stop_signal());
    target.exited().await;
    for connection in unused {
        connection.ended(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn late_request_on_keep_alive(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut idle = run.used_connection(&target, Role::Idle).await?;
    let mut patient = run.used_connection(&target, Role::Idle).await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.5, Role::InFlight)).await?;
    target.signal(run.stop_signal());
    closed(&target).await?;
    idle.ask(run.subject.ask(Role::Late)).await;
    if run.subject.promises_contract {
        tokio::time::sleep(run.duration(Param::IdleLinger) * 2 / 3).await;
        patient.ask(run.subject.ask(Role::Late)).await;
    }
    drop(patient);
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn late_request_rejected(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start_with(&[("DRAIN_POLICY", "reject")]).await?;
    let mut early = run.used_connection(&target, Role::LameDuck).await?;
    let mut idle = run.used_connection(&target, Role::Idle).await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(3.0, Role::InFlight)).await?;
    target.signal(run.stop_signal());
    tokio::time::sleep(run.duration(Param::ShutdownDelay) / 3).await;
    early.ask(run.subject.ask(Role::LameDuck)).await;
    closed(&target).await?;
    idle.ask(run.subject.ask(Role::LateRejected)).await;
    pending.finish().await;
    target.exited().await;
    Ok(())
}

/// Waits until the listener has closed.
async fn closed(target: &Target) -> Result<(), Stop> {
    if !target.listener_closed(CLOSES).await {
        return Err(unconfirmed("the listener closes", "it was open 4 s after the signal"));
    }
    // A server may note that its listener is closed a moment after the kernel has.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

async fn keep_alive_race(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let load = back_to_back(
        &run.client,
        target.address,
        &run.subject.ask(Role::KeepAlive),
        run.param(Param::Clients) as usize,
    );
    under_load(run, &mut target, load).await
}

async fn new_connection_refused(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.5, Role::InFlight)).await?;
    target.signal(run.stop_signal());
    // Where it stays open, the attempts below show what comes of that.
    target.listener_closed(Duration::from_secs(1)).await;
    for _ in 0..3 {
        let _ = target.try_connect(Role::New).await;
    }
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn accept_queue_storm(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let load =
        connect_storm(&run.client, target.address, &run.subject.ask(Role::Storm), run.param(Param::Clients) as usize);
    under_load(run, &mut target, load).await
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

async fn sustained_load_exits(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let clients = run.param(Param::Clients) as usize;
    let storm = connect_storm(&run.client, target.address, &run.subject.ask(Role::Storm), clients);
    let load = back_to_back(&run.client, target.address, &run.subject.ask(Role::Sustained), clients);
    under_load(run, &mut target, load).await?;
    storm.stop().await;
    Ok(())
}

/// Signals once every client has been answered several times, and lets the load go on until the process is gone.
async fn under_load(run: &mut Run<'_>, target: &mut Target, load: Load) -> Result<(), Stop> {
    load.warm(5 * run.param(Param::Clients) as u64).await?;
    run.confirmed("every client has been answered several times");
    target.signal(run.stop_signal());
    target.exited().await;
    load.stop().await;
    Ok(())
}

async fn immediate_rebind(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    // The server closes these first, so that their TIME-WAIT is on its side.
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(run.used_connection(&target, Role::Idle).await?);
    }
    target.signal(run.stop_signal());
    if target.exited().await.is_none() {
        target.signal_past(run.stop_signal()).await;
        return Ok(()); // and so says a rule
    }
    drop(idle);
    let port = target.address.port().to_string();
    if let Some(successor) = run.start_successor(&port).await? {
        let mut connection = successor.connect(Role::Successor).await?;
        connection.ask(run.subject.ask(Role::Successor)).await;
        successor.kill().await;
    }
    Ok(())
}
