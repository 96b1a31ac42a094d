//! Scenarios of the group *health*.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Pace, Run, Scenario, Setting, Stop, body};
use crate::catalog::Feature::{Admin, Health, LameDuck, Slow, Streams};
use crate::client::{Ask, Client, Payload};
use crate::timeline::{Param, Role};

/// How soon after the signal nobody can have heard of it yet.
const SOON: Duration = Duration::from_millis(500);

/// Pause between two probes.
const PROBE: Duration = Duration::from_millis(40);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        slug: "readiness-fails-and-latches",
        group: "health",
        summary: "Readiness is probed on new connections while SIGTERM arrives and the lame-duck lasts.",
        needs: &[Health, LameDuck],
        rules: &["readiness-fails", "readiness-latched", "clean-exit-status", "term-ends-process"],
        params: &[(Param::ShutdownDelay, 2.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(readiness_fails_and_latches),
    },
    Scenario {
        slug: "liveness-stays",
        group: "health",
        summary: "Liveness and readiness are probed on the admin port while a request drains.",
        needs: &[Health, Admin, Slow],
        rules: &["liveness-stays", "readiness-latched", "in-flight-answered", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(liveness_stays),
    },
    Scenario {
        slug: "lame-duck-serves",
        group: "health",
        summary: "New connections and an old one ask during the lame-duck, while another one idles and a stream goes on.",
        needs: &[LameDuck],
        rules: &[
            "lame-duck-serves",
            "lame-duck-lasts",
            "close-announced",
            "endless-stream-ends",
            "listener-closes-first",
            "clean-exit-status",
            "term-ends-process",
        ],
        // The linger ends before the delay would.
        params: &[(Param::ShutdownDelay, 2.0), (Param::IdleLinger, 0.5)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(lame_duck_serves),
    },
    Scenario {
        slug: "prestop-endpoint",
        group: "health",
        summary: "The preStop hook is called twice, then SIGTERM arrives.",
        needs: &[Health, LameDuck, Admin],
        rules: &[
            "prestop-waits",
            "prestop-keeps-process",
            "prestop-delay-once",
            "clean-exit-status",
            "term-ends-process",
        ],
        params: &[(Param::ShutdownDelay, 4.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(prestop_endpoint),
    },
    Scenario {
        slug: "prestop-then-signal",
        group: "health",
        summary: "SIGTERM arrives while the preStop hook is running.",
        needs: &[Health, LameDuck, Admin],
        rules: &["prestop-waits", "prestop-delay-once", "clean-exit-status", "term-ends-process"],
        params: &[(Param::ShutdownDelay, 2.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(prestop_then_signal),
    },
];

async fn readiness_fails_and_latches(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let probes = probe(&run.client, target.address, run.subject.ask_ready());
    tokio::time::sleep(3 * PROBE).await;
    target.signal(run.stop_signal());
    target.exited().await;
    probes.stop().await;
    Ok(())
}

async fn liveness_stays(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.5, Role::InFlight)).await?;
    let admin = target.admin.unwrap_or(target.address);
    let probes = probe(&run.client, admin, Ask::get("/health/live", Role::Live));
    target.signal(run.stop_signal());
    let readiness = probe(&run.client, admin, run.subject.ask_ready());
    pending.finish().await;
    target.exited().await;
    probes.stop().await;
    readiness.stop().await;
    Ok(())
}

async fn lame_duck_serves(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut used = run.used_connection(&target, Role::LameDuck).await?;
    let idle = run.used_connection(&target, Role::Idle).await?;
    let endless = match run.has(Streams) {
        true => Some(run.responding(&target, Ask::get("/events", Role::Endless)).await?),
        false => None,
    };
    let signalled = Instant::now();
    target.signal(run.stop_signal());
    let delay = run.duration(Param::ShutdownDelay);
    if run.has(Health) {
        run.not_ready(&target, signalled + delay / 2).await;
    }
    used.ask(run.subject.ask(Role::LameDuck)).await;
    // What is asked later may meet the end of the delay. Where none is known it shows soon that there is none.
    let until = signalled + if delay.is_zero() { SOON } else { delay * 2 / 3 };
    for ask in everything(run).into_iter().cycle() {
        match target.try_connect(Role::LameDuck).await {
            Ok(mut connection) => drop(connection.ask(ask).await),
            Err(_) if delay.is_zero() => break,
            Err(_) => {}
        }
        if Instant::now() > until {
            break;
        }
        tokio::time::sleep(PROBE).await;
    }
    if let Some(endless) = endless {
        endless.finish().await;
    }
    target.exited().await;
    idle.ended(Duration::from_secs(1)).await;
    Ok(())
}

/// What is still to be served during the lame-duck.
fn everything(run: &Run<'_>) -> Vec<Ask> {
    let mut asks = vec![run.subject.ask(Role::LameDuck)];
    if run.subject.promises_contract {
        let stream = "/stream?chunks=2&interval=0.01";
        let length = "chunk 0\nchunk 1\n".len() as u64;
        asks.push(Ask::post("/echo", Role::LameDuck, Payload::Whole(Bytes::from_static(b"still here"))));
        asks.push(Ask::get(stream, Role::LameDuck).expect_bytes(length));
        asks.push(Ask::get("/health/live", Role::LameDuck));
        asks.push(Ask::get("/nowhere", Role::NotFound));
    }
    asks
}

async fn prestop_endpoint(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let until = Instant::now() + run.duration(Param::ShutdownDelay) / 2;
    let hook = || Ask::get("/prestop", Role::Prestop);
    let first = target.connect_admin(Role::Prestop).await?.begin(hook()).await;
    // Only then is the second call the second one for the server too.
    run.not_ready(&target, until).await;
    if let Ok(again) = target.connect_admin(Role::Prestop).await {
        again.begin(hook()).await.finish().await;
    }
    first.finish().await;
    // The hook stops nothing: what is asked now is served.
    if let Ok(mut connection) = target.try_connect(Role::AfterHook).await {
        connection.ask(run.subject.ask(Role::AfterHook)).await;
    }
    target.signal(run.stop_signal());
    target.exited().await;
    Ok(())
}

async fn prestop_then_signal(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let until = Instant::now() + run.duration(Param::ShutdownDelay) / 3;
    let hook = target.connect_admin(Role::Prestop).await?.begin(Ask::get("/prestop", Role::Prestop)).await;
    run.not_ready(&target, until).await;
    target.signal(run.stop_signal());
    hook.finish().await;
    target.exited().await;
    Ok(())
}

struct Probes {
    task: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

impl Probes {
    async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Probes as a kubelet does, on a new connection each time, but more often.
fn probe(client: &Client, address: std::net::SocketAddr, ask: Ask) -> Probes {
    let (client, stop) = (Arc::new(client.clone()), CancellationToken::new());
    let stopped = stop.clone();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        while !stopped.is_cancelled() {
            if let Ok(mut connection) = client.connect(address, ask.role()).await {
                connection.ask(ask.clone()).await;
            }
            tokio::time::sleep(PROBE).await;
        }
    }));
    Probes { task, stop }
}
