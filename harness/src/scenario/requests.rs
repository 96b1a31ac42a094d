//! Scenarios of the group *requests*.

use std::time::{Duration, Instant};

use super::stop::unconfirmed;
use super::{Pace, Run, Scenario, Setting, Stop, body};
use crate::catalog::Feature::{Admin, EndlessStream, FiniteStream, KeepAlive, LameDuck, Limits, Slow, Streams, Upload};
use crate::client::Ask;
use crate::timeline::{Param, Role};

/// How long a request must have been in the server's hands.
const IN_HAND: Duration = Duration::from_millis(6);
/// How long such a request is looked for.
const HUNT: Duration = Duration::from_secs(4);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        slug: "in-flight-completes",
        group: "requests",
        summary: "One request is in flight when SIGTERM arrives.",
        needs: &[Slow],
        rules: &[
            "in-flight-answered",
            "response-untruncated",
            "close-announced",
            "clean-exit-status",
            "term-ends-process",
        ],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Anywhere,
        body: body!(in_flight_completes),
    },
    Scenario {
        slug: "many-in-flight",
        group: "requests",
        summary: "100 requests of different lengths are in flight when SIGTERM arrives.",
        needs: &[Slow],
        rules: &["in-flight-answered", "response-untruncated", "clean-exit-status", "term-ends-process"],
        params: &[(Param::Clients, 100.0), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Long,
        setting: Setting::Anywhere,
        body: body!(many_in_flight),
    },
    Scenario {
        slug: "saturated-in-flight",
        group: "requests",
        summary: "64 clients keep the server so busy that requests wait inside it when the stop signal arrives.",
        needs: &[],
        rules: &["in-flight-answered", "load-does-not-hold-exit", "term-ends-process"],
        params: &[(Param::Clients, 64.0), (Param::MaxInFlight, 1000.0)],
        pace: Pace::Heavy,
        setting: Setting::Alone,
        body: body!(saturated_in_flight),
    },
    Scenario {
        slug: "slow-upload-completes",
        group: "requests",
        summary: "A body is on its way up when SIGTERM arrives.",
        needs: &[Upload],
        rules: &["in-flight-answered", "response-untruncated", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(slow_upload_completes),
    },
    Scenario {
        slug: "slow-headers-bounded",
        group: "requests",
        summary: "A head arrives byte by byte, without end, when SIGTERM arrives.",
        needs: &[Limits],
        rules: &["slow-head-bounded", "clean-exit-status", "term-ends-process"],
        params: &[(Param::HeaderTimeout, 1.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(slow_headers_bounded),
    },
    Scenario {
        slug: "slow-reader-untruncated",
        group: "requests",
        summary: "A client is reading 24 MiB, slowly and through a small buffer, when SIGTERM arrives.",
        needs: &[Streams],
        rules: &["response-untruncated", "clean-exit-status", "term-ends-process"],
        params: &[(Param::Bytes, 25_165_824.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(slow_reader_untruncated),
    },
    Scenario {
        slug: "finite-stream-completes",
        group: "requests",
        summary: "A chunked response is half sent when SIGTERM arrives.",
        needs: &[FiniteStream],
        rules: &["in-flight-answered", "response-untruncated", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Anywhere,
        body: body!(finite_stream_completes),
    },
    Scenario {
        slug: "endless-stream-ends",
        group: "requests",
        summary: "Three clients are receiving server-sent events when SIGTERM arrives.",
        needs: &[EndlessStream],
        rules: &["endless-stream-ends", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(endless_stream_ends),
    },
    Scenario {
        slug: "deadline-cuts-and-says-so",
        group: "requests",
        summary: "A request and a stream that outlast the drain deadline are in flight when SIGTERM arrives.",
        needs: &[Limits, Slow, Streams, LameDuck],
        rules: &["deadline-bounds-drain", "cut-is-visible", "cut-exit-status"],
        // With a delay, which is not part of the deadline.
        params: &[(Param::ShutdownDelay, 1.0), (Param::DrainTimeout, 1.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(deadline_cuts_and_says_so),
    },
    Scenario {
        slug: "stalled-upload-bounded",
        group: "requests",
        summary: "A body arrives byte by byte, without end, when SIGTERM arrives.",
        needs: &[Limits, Upload],
        rules: &["stalled-body-bounded", "clean-exit-status", "term-ends-process"],
        params: &[(Param::BodyTimeout, 1.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(stalled_upload_bounded),
    },
    Scenario {
        slug: "client-disconnect-releases",
        group: "requests",
        summary: "Clients leave while their long requests are in flight, before SIGTERM and after it; another one stays, where its request is shorter.",
        needs: &[Slow],
        rules: &["client-gone-releases", "in-flight-answered", "clean-exit-status"],
        params: &[(Param::InFlightFor, 12.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(client_disconnect_releases),
    },
    Scenario {
        slug: "pipelined-and-expect-continue",
        group: "requests",
        summary: "Three pipelined requests and one that waits for `100 Continue` are in flight when SIGTERM arrives.",
        needs: &[Slow, Streams, Upload],
        rules: &["pipelined-in-order", "continue-answered", "clean-exit-status", "term-ends-process"],
        params: &[],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(pipelined_and_expect_continue),
    },
    Scenario {
        slug: "overload-sheds",
        group: "requests",
        summary: "More requests arrive than the server takes; then SIGTERM.",
        needs: &[Limits, Slow],
        rules: &["overload-sheds", "clean-exit-status", "term-ends-process"],
        params: &[(Param::Clients, 15.0), (Param::MaxInFlight, 5.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(overload_sheds),
    },
    Scenario {
        slug: "non-readers-bounded",
        group: "requests",
        summary: "As many clients as MAX_IN_FLIGHT ask for a large response and read nothing of it; somebody else keeps asking.",
        needs: &[Limits, Streams],
        rules: &["slow-reader-bounded"],
        params: &[(Param::MaxInFlight, 10.0), (Param::WriteTimeout, 1.0)],
        pace: Pace::Long,
        setting: Setting::Alone,
        body: body!(non_readers_bounded),
    },
    Scenario {
        slug: "streams-keep-nobody-out",
        group: "requests",
        summary: "More clients than MAX_STREAMS and MAX_IN_FLIGHT ask for an endless stream; somebody else asks.",
        needs: &[Limits, Streams],
        rules: &["streams-limited-apart", "endless-stream-ends", "term-ends-process"],
        params: &[(Param::MaxInFlight, 5.0), (Param::MaxStreams, 8.0)],
        pace: Pace::Short,
        setting: Setting::Alone,
        body: body!(streams_keep_nobody_out),
    },
];

async fn in_flight_completes(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let pending = run.in_flight(&target, run.subject.ask_slow(1.0, Role::InFlight)).await?;
    target.signal(run.stop_signal());
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn many_in_flight(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let clients = run.param(Param::Clients) as usize;
    let connections = run.used_connections(&target, Role::Warmup, clients).await?;
    let mut pending = Vec::new();
    for (number, connection) in connections.into_iter().enumerate() {
        // From 1.5 s to 2.5 s, so that they end one after the other, well after the signal.
        let delay = 1.5 + number as f64 / clients as f64;
        pending.push(connection.begin(run.subject.ask_slow(delay, Role::InFlight)).await);
    }
    let ports: Vec<u16> = pending.iter().map(|request| request.client_port).collect();
    run.settle(&target, &ports, ports.len()).await?;
    run.confirmed("all requests are in flight");
    target.signal(run.stop_signal());
    for request in pending {
        request.finish().await;
    }
    target.exited().await;
    Ok(())
}

async fn saturated_in_flight(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    if run.subject.rate().is_some() {
        return Err(unconfirmed("requests wait inside the server", "a rate limiter answers 429 long before"));
    }
    let load = run.load(&target, &run.subject.ask_busy(Role::Saturated), !run.has(KeepAlive))?;
    load.warm(run.warm_answers(3)).await?;
    // A request that was read and is unanswered some milliseconds later is in the server's hands, not on its way
    // there. A quick server has such a one only now and then.
    let deadline = tokio::time::Instant::now() + HUNT;
    let mut before = run.note_read(&target)?;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(IN_HAND).await;
        let read = run.note_read(&target)?;
        if read.iter().any(|id| before.contains(id)) {
            break;
        }
        before = read;
    }
    target.signal(run.stop_signal());
    target.exited().await;
    load.stop().await;
    Ok(())
}

async fn slow_upload_completes(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let ask = run.subject.ask_upload(Duration::from_millis(100), Role::Upload);
    let pending = run.in_flight(&target, ask).await?;
    target.signal(run.stop_signal());
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn slow_headers_bounded(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut raw = target.connect_raw(Role::SlowHead).await?;
    let (id, head) = raw.head("GET", "/", "X-Slow: ");
    raw.announce(&id, Role::SlowHead, "/", None);
    raw.write(head.trim_end().as_bytes()).await;
    run.read(&target, &[raw.client_port], 1).await?;
    target.signal(run.stop_signal());
    let longest = run.duration(Param::HeaderTimeout) + Duration::from_secs(6);
    raw.drip(&id, b"x", Duration::from_millis(100), longest).await;
    drop(raw);
    target.exited().await;
    Ok(())
}

async fn slow_reader_untruncated(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let size = run.param(Param::Bytes) as u64;
    // Kernel buffers must not swallow the body: a small one here, far more bytes than fit there.
    let connection = target.connect_narrow(Role::SlowReader, 16 << 10).await?;
    let ask = Ask::get(format!("/bytes?size={size}"), Role::SlowReader)
        .expect_bytes(size)
        .read_slowly(Duration::from_micros(500));
    let pending = connection.begin(ask).await;
    run.settle(&target, &[pending.client_port], 1).await?;
    run.begun(&pending).await?;
    target.signal(run.stop_signal());
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn finite_stream_completes(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let pending = run.responding(&target, run.subject.ask_finite(Role::Finite)).await?;
    target.signal(run.stop_signal());
    pending.finish().await;
    target.exited().await;
    Ok(())
}

async fn endless_stream_ends(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(run.responding(&target, run.subject.ask_endless(Role::Endless)).await?);
    }
    target.signal(run.stop_signal());
    // Together: a stranger's stream may hold the process as long as it likes.
    let ends = async {
        for stream in streams {
            stream.finish().await;
        }
    };
    tokio::join!(ends, target.exited());
    if !target.has_exited() {
        target.exited().await; // the clients have left by now: nothing holds it any more
    }
    Ok(())
}

async fn deadline_cuts_and_says_so(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let slow = run.in_flight(&target, run.subject.ask_slow(12.0, Role::Doomed)).await?;
    let length: usize = (0..100).map(|number| format!("chunk {number}\n").len()).sum();
    let ask = Ask::get("/stream?chunks=100&interval=0.12", Role::Doomed).expect_bytes(length as u64);
    let stream = run.responding(&target, ask).await?;
    target.signal(run.stop_signal());
    target.exited().await;
    slow.finish().await;
    stream.finish().await;
    Ok(())
}

async fn stalled_upload_bounded(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut raw = target.connect_raw(Role::SlowBody).await?;
    let (id, head) = raw.head("POST", "/echo", "Content-Length: 100000\r\n");
    raw.announce(&id, Role::SlowBody, "/echo", None);
    raw.write(head.as_bytes()).await;
    run.settle(&target, &[raw.client_port], 1).await?;
    target.signal(run.stop_signal());
    let longest = run.duration(Param::BodyTimeout) + Duration::from_secs(6);
    raw.drip(&id, b"x", Duration::from_millis(100), longest).await;
    drop(raw);
    target.exited().await;
    Ok(())
}

async fn client_disconnect_releases(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let lasts = run.duration(Param::InFlightFor);
    let long = || run.subject.ask_slow(lasts.as_secs_f64(), Role::Gone);
    let pending = run.in_flight(&target, long()).await?;
    pending.leave().await;
    if run.has(Admin) {
        // Where the count stays up, the rule says so.
        run.metrics_say(&target, |in_flight| in_flight == 0).await?;
    } else {
        tokio::time::sleep((lasts / 8).min(Duration::from_millis(300))).await;
    }
    let leaving = run.in_flight(&target, long()).await?;
    let crashing = run.in_flight(&target, long()).await?;
    // A stranger's request takes its time, whoever asks: one who stays would hide that the others hold.
    let staying = match run.subject.has_routes() {
        true => Some(run.in_flight(&target, run.subject.ask_slow(1.5, Role::InFlight)).await?),
        false => None,
    };
    target.signal(run.stop_signal());
    target.listener_closed((lasts / 8).min(Duration::from_secs(1))).await;
    // A server may note that its listener is closed a moment after the kernel has: by then the drain has begun.
    tokio::time::sleep((lasts / 16).min(Duration::from_millis(100))).await;
    crashing.leave_by_reset().await;
    leaving.leave().await;
    if let Some(staying) = staying {
        staying.finish().await;
    }
    target.exited().await;
    Ok(())
}

async fn pipelined_and_expect_continue(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;

    let mut waiting = target.connect_raw(Role::Warmup).await?;
    let payload = b"continued";
    let more = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", payload.len());
    let (continued, head) = waiting.head("POST", "/echo", &more);
    waiting.announce(&continued, Role::Continue, "/echo", Some(payload.len() as u64));
    waiting.write(head.as_bytes()).await;
    let told = waiting.continued(&continued, Duration::from_secs(5)).await;

    let mut raw = target.connect_raw(Role::Warmup).await?;
    // Bodies of different lengths show whether the order is right.
    let (first, mut bytes) = raw.head("GET", "/slow?delay=1", "");
    let (second, head) = raw.head("GET", "/bytes?size=17", "");
    bytes.push_str(&head);
    let (third, head) = raw.head("GET", "/bytes?size=23", "");
    bytes.push_str(&head);
    raw.announce(&first, Role::Pipelined, "/slow?delay=1", None);
    raw.write(bytes.as_bytes()).await;
    raw.sent_along(&second, Role::Pipelined, "/bytes?size=17", Some(17));
    raw.sent_along(&third, Role::Pipelined, "/bytes?size=23", Some(23));
    run.settle(&target, &[waiting.client_port, raw.client_port], 2).await?;

    target.signal(run.stop_signal());
    // By then the signal has certainly been taken.
    target.listener_closed(Duration::from_secs(4)).await;
    if told {
        waiting.write(payload).await;
    }
    waiting.answer(&continued, Some(payload)).await;
    for id in [first, second, third] {
        raw.answer(&id, None).await;
    }
    drop(raw);
    drop(waiting);
    target.exited().await;
    Ok(())
}

async fn overload_sheds(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut connections = Vec::new();
    for _ in 0..run.param(Param::Clients) as usize {
        connections.push(run.used_connection(&target, Role::Warmup).await?);
    }
    run.quiet(&target).await?;
    let mut pending = Vec::new();
    for connection in connections {
        pending.push(connection.begin(run.subject.ask_slow(1.0, Role::Overload)).await);
    }
    let ports: Vec<u16> = pending.iter().map(|request| request.client_port).collect();
    run.settle(&target, &ports, run.param(Param::MaxInFlight) as usize).await?;
    let mut probe = target.connect(Role::Live).await?;
    probe.ask(Ask::get("/health/live", Role::Live)).await;
    drop(probe);
    target.signal(run.stop_signal());
    for request in pending {
        request.finish().await;
    }
    target.exited().await;
    Ok(())
}

async fn non_readers_bounded(run: &mut Run<'_>) -> Result<(), Stop> {
    /// More than all the buffers between two programs hold.
    const SIZE: u64 = 64 << 20;
    /// Between two looks of those who read next to nothing: far beyond WRITE_TIMEOUT.
    const PAUSE: Duration = Duration::from_secs(6);
    let mut target = run.start().await?;
    let mut deaf = Vec::new();
    for _ in 0..run.param(Param::MaxInFlight) as usize {
        let connection = target.connect_narrow(Role::NonReader, 16 << 10).await?;
        let ask = Ask::get(format!("/bytes?size={SIZE}"), Role::NonReader);
        let pending = connection.begin(ask.expect_bytes(SIZE).read_slowly(PAUSE).patience(3 * PAUSE)).await;
        run.begun(&pending).await?;
        deaf.push(pending);
    }
    run.confirmed("as many responses as may be in flight are not read");
    let give_up = Instant::now() + run.duration(Param::WriteTimeout) + PAUSE;
    while Instant::now() < give_up {
        let Ok(mut newcomer) = target.try_connect(Role::Newcomer).await else { break };
        if newcomer.ask(run.subject.ask(Role::Newcomer)).await.status == Some(200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for pending in deaf {
        pending.finish().await;
    }
    target.signal(run.stop_signal());
    target.exited().await;
    Ok(())
}

async fn streams_keep_nobody_out(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut target = run.start().await?;
    let mut streams = Vec::new();
    for _ in 0..run.param(Param::MaxStreams).max(run.param(Param::MaxInFlight)) as usize + 3 {
        let connection = target.connect(Role::Endless).await?;
        let pending = connection.begin(Ask::get("/events", Role::Endless)).await;
        run.begun(&pending).await?;
        streams.push(pending);
    }
    let mut newcomer = target.connect(Role::Newcomer).await?;
    newcomer.ask(run.subject.ask(Role::Newcomer)).await;
    drop(newcomer);
    target.signal(run.stop_signal());
    for stream in streams {
        stream.finish().await;
    }
    target.exited().await;
    Ok(())
}
