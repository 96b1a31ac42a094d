//! A steady load: what is due is asked in its time, whatever becomes of what was asked before.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use drainspec::client::{Ask, Asking, Route, Steady};
use drainspec::timeline::{Event, Role};

use crate::record::Tape;
use crate::servers::{ended_by_reset, head, serve};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_asked_though_nothing_was_answered() {
    let tape = Tape::new();
    let go = Arc::new(OnceLock::new());
    let gate = go.clone();
    let server = serve(move |stream| {
        head(stream);
        gate.wait();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        ended_by_reset(stream);
    });
    let asks = vec![Ask::get("/a", Role::Warmup), Ask::get("/b", Role::Warmup), Ask::get("/c", Role::Warmup)];
    let load = Steady::start(&tape.client, Asking { route: Route::One(server), asks, rate: 100.0, kept: 0.5 });
    let tenth = |event: &Event| matches!(event, Event::Sent { request, .. } if request == "r10");
    let early = tape.until("the tenth request", tenth).await;
    assert!(!early.iter().any(|event| matches!(event, Event::Answered { .. })), "{early:#?}");
    go.set(()).unwrap();
    let served = |load: &Steady| load.seen().served.load(Ordering::Relaxed);
    while served(&load) < 10 {
        tokio::task::yield_now().await;
    }
    load.stop().await;
    let events = tape.events();
    let mut sent: Vec<(u64, Role, &str)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Sent { due_us, role, path, .. } => Some((due_us.expect("it was due"), *role, path.as_str())),
            _ => None,
        })
        .collect();
    sent.sort_unstable();
    assert!(sent.len() >= 10, "{sent:?}");
    for pair in sent.windows(2) {
        assert!((9_999..=10_001).contains(&(pair[1].0 - pair[0].0)), "{pair:?}");
    }
    for (number, (_, role, path)) in sent.iter().enumerate() {
        // Half of them on connections that are kept, if their servers keep them.
        let expected = if number % 2 == 1 { Role::KeepAlive } else { Role::Storm };
        assert_eq!((*role, *path), (expected, ["/a", "/b", "/c"][number % 3]), "{number}");
    }
    let answered = events.iter().filter(|event| matches!(event, Event::Answered { .. })).count();
    assert_eq!(answered, sent.len(), "what was under way is waited for");
}
