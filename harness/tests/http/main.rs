//! HTTP as the RFCs say, the same from all four references: `servers/http.toml`, row by row.
//!
//! `HTTP_SERVER=go HTTP_ROW=chunk cargo test --test http the_table` plays a part of it.

mod exhaustion;
mod hostile;
mod play;
mod server;
mod table;
mod wire;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

use server::Server;
use table::Table;

/// What a row that uses up the server needs, and a short wait for what looks like half a head to the server.
const ENV: [(&str, &str); 2] = [("MAX_IN_FLIGHT", play::MAX_IN_FLIGHT), ("HEADER_TIMEOUT", "2")];

/// One test at a time: what floods a server would slow down the other test's, and both build.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn the_table_holds_for_every_reference() {
    let _alone = alone();
    let table = Table::load();
    let servers = server::selected();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let each = servers.iter().map(|server| scope.spawn(|| play_all(&table, server)));
        let running: Vec<_> = each.collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a thread that plays rows")).collect()
    });
    assert!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_table_is_in_order() {
    let names: BTreeSet<String> = server::references().into_iter().map(|server| server.name).collect();
    let table = Table::load();
    let faults = table.faults(&names);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `HOST=::` takes IPv4, too.
#[test]
fn every_reference_listens_on_both_families() {
    let _alone = alone();
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("this machine has no IPv6: not tested");
        return;
    }
    for server in server::selected() {
        let running = Server::start(&server, &[("HOST", "::"), ("ADMIN_HOST", "::")]);
        let v6 = TcpStream::connect((Ipv6Addr::LOCALHOST, running.port));
        assert!(v6.is_ok(), "{}: {v6:?}", server.name);
        assert_eq!(running.get("/"), Some(200), "{}: GET / from 127.0.0.1", server.name);
        let admin = TcpStream::connect((Ipv4Addr::LOCALHOST, running.admin_port.unwrap_or(0)));
        assert!(admin.is_ok(), "{}: the admin port from 127.0.0.1: {admin:?}", server.name);
    }
}

fn play_all(table: &Table, server: &drainspec::catalog::Server) -> Vec<String> {
    let rows = table.rows(&server.name);
    assert!(!rows.is_empty(), "HTTP_ROW: no row has that in its name");
    let mut running = Server::start(server, &ENV);
    let mut failures = Vec::new();
    for row in &rows {
        if let Err(fault) = play::play(&running, row) {
            let failure = format!("{}: {} [{}]: {fault}", server.name, row.name, row.source);
            println!("{failure}"); // at once: the rest may take its time
            failures.push(failure);
        }
        if let Some(status) = running.ended() {
            failures.push(format!("{}: {} ended the process: {status}", server.name, row.name));
            break;
        }
    }
    println!("{}: {} of {} rows failed", server.name, failures.len(), rows.len());
    failures
}
