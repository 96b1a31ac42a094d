//! Scenarios of the group *signals*.

use std::time::Duration;

use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGKILL};
use tokio::time::Instant;

use super::{Pace, Run, Scenario, Setting, Stop, Target, body};
use crate::catalog::Feature::{Admin, LameDuck, Limits, Reload, Slow};
use crate::client::{Ask, Pending};
use crate::process::Addressee;
use crate::timeline::{Param, Role};

/// Time for a server to act on a signal that it has taken.
const TAKEN: Duration = Duration::from_millis(200);
/// Into so many parts a start is divided, with a signal at the end of each.
const STEPS: u32 = 10;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        slug: "idle-exit",
        group: "signals",
        summary: "SIGTERM arrives when nothing is going on.",
        needs: &[],
        rules: &["signal-reaches-server", "term-ends-process", "clean-exit-status"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(idle_exit),
    },
    Scenario {
        slug: "group-signal",
        group: "signals",
        summary: "SIGTERM goes to the whole process group, as from a terminal, foreman or Heroku, while a request is in flight.",
        needs: &[Slow],
        rules: &["group-signal-drains"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(group_signal),
    },
    Scenario {
        slug: "prompt-exit",
        group: "signals",
        summary: "Several starts: SIGTERM arrives when nothing is going on, and while a short request is in flight.",
        needs: &[Slow],
        rules: &["exit-is-prompt"],
        params: &[],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(prompt_exit),
    },
    Scenario {
        slug: "sigint-like-sigterm",
        group: "signals",
        summary: "SIGINT arrives while a request is in flight.",
        needs: &[Slow],
        rules: &["int-like-term"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(sigint_like_sigterm),
    },
    Scenario {
        slug: "second-signal-forces-exit",
        group: "signals",
        summary: "SIGTERM arrives while a long request is in flight, and again once the drain has begun; and SIGINT as the second one, in the lame-duck.",
        needs: &[Slow],
        rules: &["second-signal-exits"],
        params: &[(Param::InFlightFor, 12.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(second_signal_forces_exit),
    },
    Scenario {
        slug: "sighup-keeps-serving",
        group: "signals",
        summary: "SIGHUP arrives while a request is in flight, and again while one drains.",
        needs: &[Slow],
        rules: &["hup-keeps-serving"],
        params: &[(Param::InFlightFor, 3.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(sighup_keeps_serving),
    },
    Scenario {
        slug: "sigterm-during-startup",
        group: "signals",
        summary: "SIGTERM arrives at many moments of a start, from at once to when it listens, and a little later.",
        needs: &[],
        rules: &["startup-signal-ends-process"],
        params: &[],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(sigterm_during_startup),
    },
    Scenario {
        slug: "sigkill-loses-requests",
        group: "signals",
        summary: "SIGKILL arrives while a request is in flight; the server is started again on the same port.",
        needs: &[Slow],
        rules: &["kill-recovers"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(sigkill_loses_requests),
    },
    Scenario {
        slug: "output-nobody-reads",
        group: "signals",
        summary: "Standard output and standard error are full pipes that nobody reads: requests and probes come, then SIGTERM while a request is in flight; and SIGTERM twice.",
        needs: &[Slow],
        rules: &["log-holds-nothing", "in-flight-answered", "term-ends-process"],
        params: &[],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(output_nobody_reads),
    },
    Scenario {
        slug: "listener-breaks",
        group: "signals",
        summary: "The listener is broken from outside while a request is in flight: accept(2) fails from then on.",
        needs: &[Slow, Limits],
        rules: &["broken-listener-ends-process"],
        params: &[],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(listener_breaks),
    },
];

async fn idle_exit(run: &mut Run<'_>) -> Result<(), Stop> {
    // Long, so that it shows where the server waits for it although nobody is connected.
    let mut target = run.start_with(&[("IDLE_LINGER", "6")]).await?;
    target.signal(run.stop_signal());
    if let Some(patience) = run.subject.patience() {
        patience.idle_signalled();
    }
    let ended = target.exited_at_last().await.is_some();
    if let Some(patience) = run.subject.patience() {
        patience.idle_ended(ended);
    }
    if !ended {
        target.signal_past(run.stop_signal()).await;
    }
    Ok(())
}

async fn group_signal(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.0, Role::InFlight)).await?;
    target.signal_to(run.stop_signal(), Addressee::Group);
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn prompt_exit(run: &mut Run<'_>) -> Result<(), Stop> {
    // The best of several is what the server takes, and not the machine.
    for busy in [false, true, true, false, true, true, true] {
        let mut target = run.start().await?;
        // By then the connection that showed that it serves is gone.
        target.exited_within(TAKEN).await;
        let mut pending = None;
        if busy {
            let connection = run.used_connection(&target, Role::Warmup).await?;
            let asked = connection.begin(run.subject.ask_slow(1.1, Role::InFlight)).await;
            // Where it is over by now the rule sees that this one was idle, too.
            let _ = run.read(&target, &[asked.client_port], 1).await;
            pending = Some(asked);
        }
        target.signal(run.stop_signal());
        if let Some(pending) = pending {
            pending.finish().await;
        }
        let ended = target.exited().await.is_some();
        target.kill().await;
        if !ended {
            break; // and so would the others not
        }
    }
    Ok(())
}

async fn sigint_like_sigterm(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.0, Role::InFlight)).await?;
    target.signal(SIGINT);
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn second_signal_forces_exit(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let lasts = run.duration(Param::InFlightFor);
    let pending = run.in_flight(&target, run.subject.ask_slow(lasts.as_secs_f64(), Role::Doomed)).await?;
    target.signal(run.stop_signal());
    // By the time that the listener is closed the first signal was certainly taken. Some close it last.
    target.listener_closed(lasts / 4).await;
    // Where the process is gone instead, the rule says so.
    target.exited_within((lasts / 8).min(TAKEN)).await;
    second_signal(run, &mut target, pending, run.stop_signal()).await;
    if run.has(LameDuck) && run.subject.has_routes() {
        // Another signal than the first, and long before the listener closes.
        let mut target = run.start_with(&[("SHUTDOWN_DELAY", "10")]).await?;
        let pending = run.in_flight(&target, run.subject.ask_slow(lasts.as_secs_f64(), Role::Doomed)).await?;
        target.signal(run.stop_signal());
        // Of two signals that wait the kernel delivers the lesser one first.
        run.not_ready(&target, Instant::now() + Duration::from_secs(5)).await;
        target.exited_within(TAKEN).await;
        second_signal(run, &mut target, pending, SIGINT).await;
    }
    Ok(())
}

/// Signals again, and waits for the end of the process and of the request that held it.
async fn second_signal(run: &Run<'_>, target: &mut Target, pending: Pending, signal: Signal) {
    if pending.is_open() && run.read(target, &[pending.client_port], 1).await.is_ok() {
        run.confirmed("the request is still in flight");
    }
    target.signal(signal);
    target.exited().await;
    pending.finish().await;
}

async fn sighup_keeps_serving(run: &mut Run<'_>) -> Result<(), Stop> {
    let file = run.folder.path().join("server.conf");
    std::fs::write(&file, "# nothing yet\n").map_err(|error| Stop::Io("writing CONFIG_FILE", error))?;
    let path = file.to_string_lossy().into_owned();
    let mut target = run.start_with(&[("CONFIG_FILE", &path)]).await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(run.param(Param::InFlightFor), Role::InFlight)).await?;
    if run.has(Reload) {
        let write = |text| std::fs::write(&file, text).map_err(|error| Stop::Io("writing CONFIG_FILE", error));
        // Below what is in flight, so that the new value shows; a bad file after it must change nothing.
        write("MAX_IN_FLIGHT=1\n")?;
        target.signal(SIGHUP);
        shed_soon(run, &target).await;
        write("MAX_IN_FLIGHT=many\n")?;
        target.signal(SIGHUP);
        still_shed(run, &target).await;
    } else {
        target.signal(SIGHUP);
        target.exited_within(Duration::from_millis(300)).await;
    }
    pending.finish().await;
    if run.has(Reload) && !target.has_exited() {
        // The last byte arrives a moment before the server counts the request as finished. Where it is gone
        // instead, the rule says so.
        let _ = run.metrics_say(&target, |in_flight| in_flight == 0).await;
    }
    if let Ok(mut connection) = target.try_connect(Role::AfterReload).await {
        connection.ask(run.subject.ask(Role::AfterReload)).await;
    }
    if run.has(Reload) && !target.has_exited() {
        // It is the same while a request drains.
        let connection = run.used_connection(&target, Role::Warmup).await?;
        run.quiet(&target).await?; // or the limit of one, which is in force now, turns it away
        let draining = connection.begin(run.subject.ask_slow(1.0, Role::AfterReload)).await;
        let settled = run.settle(&target, &[draining.client_port], 1).await;
        if draining.is_open() {
            settled?; // where it has ended, a rule says so
        }
        target.signal(run.stop_signal());
        target.listener_closed(Duration::from_secs(4)).await;
        target.signal(SIGHUP);
        draining.finish().await;
    } else {
        target.signal(run.stop_signal());
    }
    target.exited().await;
    Ok(())
}

/// Asks until the limit of one request in flight shows; what came last is the verdict's.
async fn shed_soon(run: &Run<'_>, target: &Target) {
    let Ok(mut connection) = target.try_connect(Role::Warmup).await else { return };
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let answer = connection.ask(run.subject.ask(Role::Warmup)).await;
        if answer.status == Some(429) || answer.status.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    connection.ask(run.subject.ask(Role::Overload)).await;
}

/// Asks for as long as it may take to see that a file is bad.
async fn still_shed(run: &Run<'_>, target: &Target) {
    let Ok(mut connection) = target.try_connect(Role::Warmup).await else { return };
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        connection.ask(run.subject.ask(Role::Overload)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn sigterm_during_startup(run: &mut Run<'_>) -> Result<(), Stop> {
    let at_first = [0, 2, 10, 25].map(Duration::from_millis);
    // How long a start takes that nobody disturbs; the first one of all may be the slowest by far.
    let mut takes = Duration::MAX;
    for _ in 0..2 {
        let began = Instant::now();
        let undisturbed = run.start().await?;
        takes = takes.min(began.elapsed());
        undisturbed.kill().await;
    }
    let steps = (1..=3 * STEPS).map(|step| takes * step / STEPS).filter(|at| *at > at_first[3]);
    let mut listened = 0;
    for wait in at_first.into_iter().chain(steps) {
        let process = run.spawn(&[])?;
        tokio::time::sleep(wait).await;
        listened += u32::from(!process.tree().listening().is_empty());
        process.signal(run.stop_signal(), run.subject.addressee());
        let within = Duration::from_secs(6) + run.duration(Param::ShutdownDelay);
        let ended = process.exited(within).await.is_some();
        process.kill().await;
        if listened == 2 || !ended {
            break; // a start is covered to its end, and no other one is that much slower; or it has failed already
        }
    }
    Ok(())
}

async fn sigkill_loses_requests(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start_before_successor().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.0, Role::Doomed)).await?;
    target.signal(SIGKILL);
    target.exited().await;
    pending.finish().await;
    let port = target.address.port().to_string();
    if let Some(successor) = run.start_successor(&port).await? {
        let mut connection = successor.connect(Role::Successor).await?;
        connection.ask(run.subject.ask(Role::Successor)).await;
        successor.kill().await;
    }
    Ok(())
}

async fn output_nobody_reads(run: &mut Run<'_>) -> Result<(), Stop> {
    /// Longer than an answer takes that nothing holds.
    const SOON: Duration = Duration::from_secs(2);
    let mut target = run.start().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(5.0, Role::InFlight)).await?;
    target.mute().await?;
    run.confirmed("its output is full, and nobody reads it");
    for _ in 0..3 {
        let Ok(mut connection) = target.try_connect(Role::Unheard).await else { break };
        if connection.ask(run.subject.ask(Role::Unheard).patience(SOON)).await.status.is_none() {
            break; // and so will the next one be
        }
    }
    if run.has(Admin)
        && let Ok(mut admin) = target.connect_admin(Role::Live).await
    {
        admin.ask(Ask::get("/health/live", Role::Live).patience(SOON)).await;
    }
    target.signal(run.stop_signal());
    pending.finish().await;
    target.exited().await;
    target.kill().await;

    let mut target = run.start().await?;
    let _pending = run.in_flight(&target, run.subject.ask_slow(60.0, Role::Gone)).await?;
    target.mute().await?;
    target.signal(run.stop_signal());
    target.listener_closed(SOON).await;
    target.signal(run.stop_signal());
    target.exited().await;
    target.kill().await;
    Ok(())
}

async fn listener_breaks(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.5, Role::InFlight)).await?;
    target.break_listener()?;
    pending.finish().await;
    target.exited_within(Duration::from_secs(8)).await;
    target.kill().await;
    Ok(())
}
