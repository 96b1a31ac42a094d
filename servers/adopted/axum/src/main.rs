//! axum, stopped by lifecycle.rs. That file and log.rs are links to the reference's, as they are; what the service
//! does is in routes.rs.
//!
//! `with_graceful_shutdown` closes idle connections together with the listener: so the listener is closed before
//! that, alone, by the `Door` that axum accepts from. axum has a runtime of its own, because only that can be
//! dropped with whatever is left at the deadline.

mod door;
#[expect(dead_code, reason = "a copy has what others need, too")]
mod lifecycle;
#[expect(dead_code, reason = "a copy has what others need, too")]
mod log;
mod routes;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{SetOnce, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use door::{Door, Open};
use lifecycle::{Lifecycle, ReleaseStep, Signals, Steps, Value};
use routes::Service;

fn main() {
    let axum = Runtime::new().expect("a runtime");
    let main = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let handle = axum.handle().clone();
    let axum = Rc::new(Cell::new(Some(axum)));
    let status = main.block_on(run(&handle, Rc::clone(&axum)));
    log::flush();
    std::process::exit(status);
}

async fn run(axum: &Handle, runtime: Rc<Cell<Option<Runtime>>>) -> i32 {
    let signals = Signals::listen().expect("handlers of signals");
    // Read at the start: what is wrong must not show in the middle of a drain.
    let (shutdown_delay, drain_timeout) = (seconds("SHUTDOWN_DELAY", 0.0), seconds("DRAIN_TIMEOUT", 30.0));
    let idle_linger = seconds("IDLE_LINGER", 1.0);
    let service = Arc::new(Service::new(Lifecycle::new(log::log_event, move || shutdown_delay)));
    let listening = async { (listen("HOST", "PORT", 8080).await, listen("ADMIN_HOST", "ADMIN_PORT", 9090).await) };
    let (listener, admin_listener) = axum.spawn(listening).await.expect("HOST and PORT: addresses");
    let port = |listener: &TcpListener| Value::Number(listener.local_addr().expect("bound").port().into());
    let listening = [
        ("port", port(&listener)),
        ("admin_port", port(&admin_listener)),
        ("pid", Value::Number(std::process::id() as usize)),
        ("instance", Value::Text(&service.instance)),
    ];

    let (open, mut none_open) = mpsc::channel(1);
    let (close, closed) = (Arc::new(SetOnce::new()), Arc::new(SetOnce::new()));
    let door = Door {
        inside: Some((listener, Open(open))),
        close: Arc::clone(&close),
        closed: Arc::clone(&closed),
        service: Arc::clone(&service),
    };
    let after_linger = {
        let closed = Arc::clone(&closed);
        async move {
            closed.wait().await;
            tokio::select! {
                _ = none_open.recv() => {} // nobody is there to wait for
                () = sleep(idle_linger) => {}
            }
        }
    };
    let routes = routes::traffic(&service).into_make_service_with_connect_info::<Open>();
    let serving = axum.spawn(async { axum::serve(door, routes).with_graceful_shutdown(after_linger).await });
    let admin_routes = routes::admin(&service);
    let (close_admin, admin_closing) = oneshot::channel::<()>();
    let admin_closing = async { drop(admin_closing.await) };
    let admin =
        axum.spawn(async { axum::serve(admin_listener, admin_routes).with_graceful_shutdown(admin_closing).await });
    service.lifecycle.ready();
    log::log_event("listening", &listening);

    let cutting = Arc::clone(&service);
    let steps = Steps {
        drain_timeout: Box::new(move || drain_timeout),
        close_listener: Box::pin(async move {
            let _ = close.set(());
            closed.wait().await;
            Ok(())
        }),
        drained: Box::pin(async { drop(serving.await) }),
        cut_in_flight: Box::new(move || {
            let cut = cutting.in_flight.load(Ordering::SeqCst);
            if let Some(axum) = runtime.take() {
                axum.shutdown_background();
            }
            cut
        }),
        // The admin server behind whatever else there is to release.
        release: vec![ReleaseStep {
            name: "admin",
            timeout: Duration::from_secs(1),
            run: Box::pin(async {
                drop(close_admin);
                // A little for the answer to a /prestop, which waited for the same delay as we did.
                let _ = timeout(Duration::from_millis(500), admin).await;
                Ok(())
            }),
        }],
        reload: Rc::new(|| {}),
    };
    service.lifecycle.run(signals, steps).await
}

async fn listen(host: &str, port: &str, fallback: u16) -> TcpListener {
    let port = env(port).map_or(fallback, |port| port.parse().expect("a port"));
    TcpListener::bind((env(host).as_deref().unwrap_or("127.0.0.1"), port)).await.expect("an address")
}

fn seconds(variable: &str, fallback: f64) -> Duration {
    Duration::from_secs_f64(env(variable).map_or(fallback, |value| value.parse().expect(variable)))
}

fn env(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}
