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
mod log;
mod routes;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;

use accept_queue::{BACKLOG, Emptied, Listener};
use config::{Config, Settings, environment};
use connections::{Connection, Registry, refuse, serve};
use lifecycle::{Lifecycle, ReleaseStep, Signals, Steps, Value};
use log::{flush, log_error, log_event};
use routes::{App, Sent};

/// On one thread: what a connection and the shutdown do to each other then happens in some order, never at the
/// same time, which is easier to read. On several threads the text would be the same.
fn main() {
    flush(); // opens both streams of the log while there are descriptors for them
    panic::set_hook(Box::new(|panic| log_error(&panic.to_string()))); // which may not wait for a reader either
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let status = runtime.block_on(run()).unwrap_or_else(|(status, reason)| {
        log_error(&reason);
        status
    });
    flush();
    std::process::exit(status); // not by returning, which would take down the runtime first
}

async fn run() -> Result<i32, (i32, String)> {
    // One process, without children, so it comes once. rule: signal-reaches-server, group-signal-drains
    // From here on a signal waits to be received instead of killing us. rule: startup-signal-ends-process
    let signals = Signals::listen().map_err(|error| (1, format!("signals: {error}")))?;

    let config = Config::load(environment).map_err(|error| (2, error.to_string()))?;
    let settings = Arc::new(Settings::new(config, environment));
    let registry = Registry::new(Arc::clone(&settings));
    let admin_registry = Registry::new(Arc::clone(&settings));
    let delayed = Arc::clone(&settings);
    let lifecycle = Arc::new(Lifecycle::new(log_event, move || delayed.now().shutdown_delay));

    raise_descriptor_limit();
    let (tcp, port) = listen(config.host, config.port)?;
    let (admin_tcp, admin_port) = listen(config.admin_host, config.admin_port)?;

    let instance = new_instance();
    let app = Arc::new(App {
        settings: Arc::clone(&settings),
        lifecycle: Arc::clone(&lifecycle),
        registry: Arc::clone(&registry),
        instance: HeaderValue::try_from(&instance).expect("hexadecimal digits"),
    });
    let (close, closing) = oneshot::channel();
    let listener = Listener::new(tcp, hand_over(Arc::clone(&registry), Arc::clone(&app), App::handle));
    let accepting = tokio::spawn(accept(listener, closing, Arc::clone(&lifecycle)));
    let (close_admin, admin_closing) = oneshot::channel();
    let admin_listener = Listener::new(admin_tcp, hand_over(Arc::clone(&admin_registry), app, App::handle_admin));
    let admin_accepting = tokio::spawn(accept(admin_listener, admin_closing, Arc::clone(&lifecycle)));

    lifecycle.ready();
    log_event(
        "listening",
        &[
            ("port", Value::Number(port.into())),
            ("admin_port", Value::Number(admin_port.into())),
            ("pid", Value::Number(std::process::id() as usize)),
            ("instance", Value::Text(&instance)),
        ],
    );

    let timed = Arc::clone(&settings);
    let (draining, drained) = (Arc::clone(&registry), Arc::clone(&registry));
    let steps = Steps {
        drain_timeout: Box::new(move || timed.now().drain_timeout),
        close_listener: Box::pin(async move {
            let _ = close.send(());
            let queue = accepting.await.map_err(|error| error.to_string())?;
            draining.begin_drain();
            log_event(
                "accept_queue",
                &[
                    ("emptied", Value::Number(queue.emptied)),
                    ("minimum_ttl", Value::Flag(queue.minimum_ttl)),
                    ("half_open", Value::Number(queue.half_open)),
                    ("lost", Value::Number(queue.lost)),
                ],
            );
            queue.error.map_or(Ok(()), Err)
        }),
        drained: Box::pin(async move { drained.drained().await }),
        cut_in_flight: Box::new(move || registry.cut_in_flight()),
        // The admin listener answers liveness to the end, so it is released last.
        release: vec![ReleaseStep {
            name: "admin",
            timeout: Duration::from_secs(1),
            run: Box::pin(async move {
                admin_accepting.abort(); // closes at once
                drop(close_admin);
                // A /prestop waited for the same delay as we did: its answer comes first.
                admin_registry.answered().await;
                admin_registry.cut_in_flight();
                Ok(())
            }),
        }],
        reload: Rc::new(move || reload(&settings)),
    };
    Ok(lifecycle.run(signals, steps).await)
}

/// Accepts until the listener is told to close, or works no more.
async fn accept<H: Fn(TcpStream)>(
    listener: Listener<H>,
    closing: oneshot::Receiver<()>,
    lifecycle: Arc<Lifecycle>,
) -> Emptied {
    listener.accept(closing).await.unwrap_or_else(|error| {
        lifecycle.fail(&format!("cannot accept: {error}"));
        Emptied::default()
    })
}

/// A soft limit of 1024 is there for programs that use select(2); this one does not.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn listen(host: IpAddr, port: u16) -> Result<(TcpListener, u16), (i32, String)> {
    let address = SocketAddr::new(host, port);
    let failed = |error: io::Error| (1, format!("cannot listen on {address}: {error}"));
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
    F: Future<Output = Sent> + Send + 'static,
{
    move |stream| {
        let app = Arc::clone(&app);
        match registry.open(stream) {
            Some(io) if io.connection.refused => drop(tokio::spawn(refuse(io))),
            Some(io) => {
                let handle = move |connection, request| handle(Arc::clone(&app), connection, request);
                drop(tokio::spawn(serve(io, handle)));
            }
            None => {}
        }
    }
}

fn reload(settings: &Settings) {
    // rule: hup-keeps-serving
    match settings.reload() {
        Ok(changed) => log_event("reloaded", &[("changed", Value::Names(&changed))]),
        Err(error) => {
            let reason = error.to_string();
            log_error(&reason);
            log_event("reload_failed", &[("reason", Value::Text(&reason))]);
        }
    }
}

/// Names this process, so that a client can tell it from its successor on the same port.
fn new_instance() -> String {
    // Its keys are random: all the randomness that the standard library has.
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}
