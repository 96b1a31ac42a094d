//! A server that loses no request when it is stopped.
//!
//! It loads its configuration, listens, and serves until SIGTERM or SIGINT. Then readiness fails, the
//! listener closes without resetting anybody, idle connections get a last chance and a FIN, requests in
//! flight finish, and the process ends with a status that says whether anything was lost. lifecycle.rs holds
//! that sequence; everything it needs is built here and passed in.

mod accept_queue;
mod config;
mod connections;
mod lifecycle;
mod routes;

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;

use accept_queue::{BACKLOG, Listener};
use config::{Config, Settings, environment};
use connections::{Connection, Registry, refuse, serve};
use lifecycle::{Lifecycle, ReleaseStep, Signals, Steps};
use routes::{App, ResponseBody, log_event};

fn main() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let status = runtime.block_on(run()).unwrap_or_else(|(status, reason)| {
        let _ = writeln!(io::stderr(), "{reason}");
        status
    });
    std::process::exit(status); // not by returning, which would take down the runtime first
}

async fn run() -> Result<i32, (i32, String)> {
    // From here on a signal waits to be received instead of killing us. rule: startup-signal-ends-process
    let signals = Signals::listen().map_err(|error| (1, format!("signals: {error}")))?;

    let config = Config::load(environment).map_err(|error| (2, error.to_string()))?;
    let settings = Arc::new(Settings::new(config, environment));
    let registry = Registry::new(Arc::clone(&settings));
    let admin_registry = Registry::new(Arc::clone(&settings));
    let delayed = Arc::clone(&settings);
    let lifecycle = Arc::new(Lifecycle::new(log_event, move || delayed.now().shutdown_delay));

    let (tcp, port) = listen(config.host, config.port)?;
    let (admin, admin_port) = listen(config.admin_host, config.admin_port)?;

    let instance = new_instance();
    let app = Arc::new(App {
        settings: Arc::clone(&settings),
        lifecycle: Arc::clone(&lifecycle),
        registry: Arc::clone(&registry),
        instance: HeaderValue::try_from(&instance).expect("hexadecimal digits"),
    });
    let (close, closing) = oneshot::channel();
    let listener = Listener::new(tcp, hand_over(Arc::clone(&registry), Arc::clone(&app), App::handle));
    let accepting = tokio::spawn(listener.accept(closing));
    let (close_admin, admin_closing) = oneshot::channel();
    let admin_listener = Listener::new(admin, hand_over(Arc::clone(&admin_registry), app, App::handle_admin));
    let admin_accepting = tokio::spawn(admin_listener.accept(admin_closing));

    lifecycle.ready();
    log_event(
        "listening",
        &[
            ("port", port.into()),
            ("admin_port", admin_port.into()),
            ("pid", std::process::id().into()),
            ("instance", instance.into()),
        ],
    );

    let timed = Arc::clone(&settings);
    let (draining, drained) = (Arc::clone(&registry), Arc::clone(&registry));
    let steps = Steps {
        drain_timeout: Box::new(move || timed.now().drain_timeout),
        close_listener: Box::pin(async move {
            let _ = close.send(());
            let (emptied, filtered) = accepting.await.expect("accepting does not panic");
            draining.begin_drain();
            log_event("listener_closed", &[("emptied", emptied.into()), ("filtered", filtered.into())]);
        }),
        drained: Box::pin(async move { drained.drained().await }),
        cut_in_flight: Box::new(move || registry.cut_in_flight()),
        // The admin listener answers liveness to the end, so it is released last.
        release: vec![ReleaseStep {
            name: "admin",
            timeout: Duration::from_secs(1),
            run: Box::pin(async move {
                let _ = close_admin.send(());
                let closed = admin_accepting.await;
                admin_registry.cut_in_flight();
                closed.map(drop).map_err(|error| error.to_string())
            }),
        }],
        reload: Rc::new(move || reload(&settings)),
    };
    Ok(lifecycle.run(signals, steps).await)
}

fn listen(host: IpAddr, port: u16) -> Result<(TcpListener, u16), (i32, String)> {
    let address = SocketAddr::new(host, port);
    let failed = |error| (1, format!("listen on {address}: {error}"));
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    socket.set_reuseaddr(true).and_then(|()| socket.bind(address)).map_err(failed)?;
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    Ok((listener, port))
}

/// What becomes of an accepted connection: a task of its own.
fn hand_over<H, F>(registry: Arc<Registry>, app: Arc<App>, handle: H) -> impl Fn(TcpStream)
where
    H: Fn(Arc<App>, Arc<Connection>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Result<Response<ResponseBody>, Infallible>> + Send + 'static,
{
    move |stream| {
        let app = Arc::clone(&app);
        match registry.open(stream) {
            Ok(io) => tokio::spawn(serve(io, move |connection, request| {
                handle(Arc::clone(&app), connection, request)
            })),
            Err(io) => tokio::spawn(refuse(io)),
        };
    }
}

fn reload(settings: &Settings) {
    // rule: hup-keeps-serving
    match settings.reload() {
        Ok(changed) => log_event("reloaded", &[("changed", changed.into())]),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            log_event("reload_failed", &[("reason", error.to_string().into())]);
        }
    }
}

/// Names this process, so that a client can tell it from its successor on the same port.
fn new_instance() -> String {
    // Its keys are random: all the randomness that the standard library has.
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}
