//! More clients than descriptors: what a server cannot take at the end it loses, and its exit status says so.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::server::{self, Server};
use crate::wire::Wire;

/// The hard limit of descriptors: enough for a runtime, and for less than half of the clients.
const DESCRIPTORS: usize = 160;
const CLIENTS: usize = 400;
/// For a drain in which nothing is in flight, and what a busy machine adds.
const EXITS: Duration = Duration::from_secs(30);

#[test]
fn a_loss_for_want_of_descriptors_is_in_the_exit_status() {
    let _alone = crate::alone();
    drainspec::process::raise_file_limit();
    let faults: Vec<String> = server::selected().iter().filter_map(|server| exhaust(server).err()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn exhaust(server: &drainspec::catalog::Server) -> Result<(), String> {
    let mut limited = server.clone();
    limited.spec.run.splice(0..0, ["prlimit".to_owned(), format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")]);
    let mut running = Server::start(&limited, &[("MAX_CONNECTIONS", "2000"), ("IDLE_LINGER", "1")]);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Wire::connect(running.port, false).map_err(|error| format!("{}: {error}", server.name))?;
        client.send(b"GET / HTTP/1.1\r\nHost: drainspec\r\n\r\n");
        clients.push(client);
    }
    running.terminate();
    let answered = clients.iter_mut().filter_map(|client| client.answer(false).ok()).count();
    let status = running.exited(EXITS).ok_or_else(|| format!("{}: it did not end", server.name))?;
    println!("{}: {answered} of {CLIENTS} answered, {status}", server.name);
    if answered == CLIENTS {
        return Err(format!("{}: nobody was lost, so nothing is shown", server.name));
    }
    match (status.code(), status.signal()) {
        (Some(1), _) => Ok(()),
        _ => Err(format!("{}: {answered} of {CLIENTS} answered, and then {status}", server.name)),
    }
}
