//! Scenarios of the group *connections*.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Pace, Run, Scenario, Setting, Stop, Target, body, unconfirmed};
use crate::catalog::Feature::{KeepAlive, LameDuck, Limits, Slow, Upload};
use crate::client::{Ask, Pending, Raw};
use crate::timeline::{Param, RequestId, Role};

/// What a drain may take to close the listener, before a scenario goes on without it.
const CLOSES: Duration = Duration::from_secs(4);

/// A server may note that its listener is closed a moment after the kernel has.
const NOTED: Duration = Duration::from_millis(100);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        slug: "idle-keep-alive-closes",
        group: "connections",
        summary: "Connections have answered and wait when SIGTERM arrives; one has answered a POST, one has a client that is deaf to FIN.",
        needs: &[KeepAlive],
        rules: &["idle-closed-by-fin", "idle-holds-nothing", "listener-closes-first", "clean-exit-status"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
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
        setting: Setting::Alone,
        body: body!(unused_connection_closes),
    },
    Scenario {
        slug: "kept-open-after-answer",
        group: "connections",
        summary: "Clients keep their connection after the answer to a request that was in flight: as a pool does, deaf to FIN, sending on after it, or without ever reading.",
        needs: &[KeepAlive, Slow],
        rules: &["kept-open-holds-nothing", "in-flight-answered", "clean-exit-status"],
        params: &[(Param::InFlightFor, 3.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(kept_open_after_answer),
    },
    Scenario {
        slug: "half-a-request",
        group: "connections",
        summary: "A client has sent half a head, and another one half a body, and both say no more when SIGTERM arrives.",
        needs: &[],
        rules: &["half-request-holds-nothing", "clean-exit-status"],
        params: &[(Param::HeaderTimeout, 2.0), (Param::BodyTimeout, 2.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(half_a_request),
    },
    Scenario {
        slug: "late-request-on-keep-alive",
        group: "connections",
        summary: "Idle connections ask once more after the listener closed: at once, and late in their linger.",
        needs: &[KeepAlive, Slow],
        rules: &["late-request-answered", "in-flight-answered", "clean-exit-status", "term-ends-process"],
        params: &[(Param::IdleLinger, 3.0), (Param::InFlightFor, 1.5)],
        pace: Pace::Long,
        setting: Setting::Alone,
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
        setting: Setting::Alone,
        body: body!(late_request_rejected),
    },
    Scenario {
        slug: "new-connection-refused",
        group: "connections",
        summary: "Clients connect while a request drains, at several moments of the drain.",
        needs: &[Slow],
        rules: &["new-connections-refused", "in-flight-answered", "clean-exit-status", "term-ends-process"],
        params: &[(Param::InFlightFor, 2.5)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(new_connection_refused),
    },
    Scenario {
        slug: "idle-in-balancers-pool",
        group: "connections",
        summary: "A connection has answered and waits in a balancer's pool, while nobody stops the server.",
        needs: &[KeepAlive],
        rules: &["keep-alive-outlasts-balancer"],
        params: &[(Param::BalancerIdle, 2.0), (Param::KeepAliveTimeout, 3.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(idle_in_balancers_pool),
    },
    Scenario {
        slug: "immediate-rebind",
        group: "connections",
        summary: "A successor starts on the same port as soon as the process has exited.",
        needs: &[],
        rules: &["port-free-after-exit", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
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
    if run.has(Upload) {
        let mut posted = target.connect(Role::Idle).await?;
        posted.ask(run.subject.ask_posted("posted", Role::Warmup)).await;
        idle.push(posted);
    }
    if idle.iter().any(|connection| connection.ending().is_some()) {
        return Err(unconfirmed("idle connections stay open", "the server closed one after its first response"));
    }
    run.confirmed(&format!("{} connections are idle", idle.len() + 1));
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

async fn kept_open_after_answer(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let lasts = run.param(Param::InFlightFor);
    let pooled = run.used_connection(&target, Role::Kept).await?;
    let (deaf, deaf_id) = raw_in_flight(&target, run.subject.ask_slow(lasts, Role::InFlight)).await?;
    let (talker, talker_id) = raw_in_flight(&target, run.subject.ask_slow(lasts, Role::InFlight)).await?;
    let (silent, _) = raw_in_flight(&target, run.subject.ask_slow(lasts, Role::NonReader)).await?;
    let pooled = pooled.begin(run.subject.ask_slow(lasts, Role::InFlight)).await;
    let ports = [pooled.client_port, deaf.client_port, talker.client_port, silent.client_port];
    run.settle(&target, &ports, ports.len()).await?;
    run.confirmed("four requests are in flight");
    target.signal(run.stop_signal());
    let (heard, talked) = tokio::sync::oneshot::channel();
    let talking = async move {
        let mut talker = talker;
        talker.answer(&talker_id, None).await;
        let _ = heard.send(());
        talker.talk_on(Duration::from_millis(50)).await;
    };
    let talking = AbortOnDropHandle::new(tokio::spawn(talking));
    let listening = async move {
        let mut deaf = deaf;
        deaf.answer(&deaf_id, None).await;
        deaf // and never looks again
    };
    let (deaf, pooled, _) = tokio::join!(listening, pooled.finish_open(), talked);
    target.exited().await;
    drop((deaf, pooled, silent, talking));
    Ok(())
}

/// Asks, by bytes, on a connection that is to be kept.
async fn raw_in_flight(target: &Target, ask: Ask) -> Result<(Raw, RequestId), Stop> {
    let mut raw = target.connect_raw(Role::Kept).await?;
    let id = raw.begin(&ask).await;
    Ok((raw, id))
}

async fn half_a_request(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut head = target.connect_raw(Role::SlowHead).await?;
    let id = head.begin_half(&run.subject.ask(Role::SlowHead)).await;
    let mut halves = vec![(head, id)];
    if run.has(Upload) {
        let mut body = target.connect_raw(Role::SlowBody).await?;
        let id = body.begin_half(&run.subject.ask_posted("all but this:.", Role::SlowBody)).await;
        halves.push((body, id));
    }
    let ports: Vec<u16> = halves.iter().map(|(raw, _)| raw.client_port).collect();
    run.read(&target, &ports, ports.len()).await?;
    run.confirmed("half a request has been read");
    target.signal(run.stop_signal());
    if target.exited().await.is_some() {
        for (mut raw, id) in halves {
            raw.answer(&id, None).await;
        }
    }
    Ok(())
}

async fn late_request_on_keep_alive(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut idle = run.used_connection(&target, Role::Idle).await?;
    let mut patient = run.used_connection(&target, Role::Idle).await?;
    let lasts = run.duration(Param::InFlightFor);
    let (pending, over) = drain(run, &mut target, lasts).await?;
    if run.subject.promises_contract {
        closed(&target).await?;
    } else {
        // Some close their listener last, and answer until then: they are asked while the request drains.
        target.listener_closed(over.saturating_duration_since(Instant::now()) + lasts / 4).await;
        tokio::time::sleep((lasts / 8).min(NOTED)).await;
    }
    if pending.is_open() || run.subject.promises_contract {
        idle.ask(run.subject.ask(Role::Late)).await;
    }
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
    tokio::time::sleep(NOTED).await;
    Ok(())
}

async fn new_connection_refused(run: &mut Run<'_>) -> Result<(), Stop> {
    /// In so many parts of the drain somebody connects.
    const PARTS: u32 = 8;
    let mut target = run.start().await?;
    let lasts = run.duration(Param::InFlightFor);
    let (pending, over) = drain(run, &mut target, lasts).await?;
    // Where the first are accepted, those after them show what comes of that.
    for part in 1..PARTS {
        tokio::time::sleep_until(over + lasts * part / PARTS).await;
        if !pending.is_open() {
            break;
        }
        let _ = target.try_connect(Role::New).await;
    }
    pending.finish().await;
    target.exited().await;
    Ok(())
}

/// Signals, with a request in flight that outlasts the lame-duck: where that is long, a request that comes late in it.
/// Returns the request, and when the lame-duck will be over.
async fn drain(run: &Run<'_>, target: &mut Target, lasts: Duration) -> Result<(Pending, Instant), Stop> {
    let delay = run.duration(Param::ShutdownDelay);
    let ask = run.subject.ask_slow(lasts.as_secs_f64(), Role::InFlight);
    if delay <= lasts / 2 {
        let pending = run.in_flight(target, ask).await?;
        target.signal(run.stop_signal());
        return Ok((pending, Instant::now() + delay));
    }
    target.signal(run.stop_signal());
    let over = Instant::now() + delay;
    tokio::time::sleep_until(over - lasts / 4).await;
    // In the lame-duck a response may say `close`: the connection is not to be used before.
    let pending = target.connect(Role::Warmup).await?.begin(ask).await;
    run.settle(target, &[pending.client_port], 1).await?;
    run.confirmed("a request is in flight late in the lame-duck");
    Ok((pending, over))
}

async fn idle_in_balancers_pool(run: &mut Run<'_>) -> Result<(), Stop> {
    let target = run.start().await?;
    let pooled = run.used_connection(&target, Role::Pooled).await?;
    run.confirmed("a connection is idle");
    // What is kept a moment longer than the balancer keeps it is kept for long enough.
    let longest = run.duration(Param::BalancerIdle) + Duration::from_millis(700);
    tokio::select! {
        _ = pooled.ended(longest) => {}
        () = run.subject.all_else_is_over() => {}
    }
    target.kill().await;
    Ok(())
}

async fn immediate_rebind(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start_before_successor().await?;
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
