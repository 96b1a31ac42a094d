//! HTTP as the RFCs say, the same from all four references: `servers/http.toml`, row by row.
//!
//! `HTTP_SERVER=go HTTP_ROW=chunk cargo test --test http the_table` plays a part of it.

mod hostile;
mod play;
mod server;
mod table;
mod wire;

use std::collections::BTreeSet;

use server::Server;
use table::Table;

/// What a row that uses up the server needs, and a short wait for what looks like half a head to the server.
const ENV: [(&str, &str); 2] = [("MAX_IN_FLIGHT", play::MAX_IN_FLIGHT), ("HEADER_TIMEOUT", "2")];

#[test]
fn the_table_holds_for_every_reference() {
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
    let names: BTreeSet<String> = server::selected().into_iter().map(|server| server.name).collect();
    let table = Table::load();
    let faults = table.faults(&names);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn play_all(table: &Table, server: &drainspec::catalog::Server) -> Vec<String> {
    let rows = table.rows(&server.name);
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
