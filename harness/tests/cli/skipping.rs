//! What this machine does not let us do is skipped, and said: here with a privilege taken away.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use predicates::prelude::*;
use predicates::str::contains;

use crate::servers::{DRAINSPEC, GOOD, Servers};

/// CAP_SYS_ADMIN, capabilities(7): whoever may make a network namespace.
const SYS_ADMIN: libc::c_ulong = 21;

/// The program without the right to make namespaces, whoever runs this test.
fn unprivileged() -> Command {
    let mut command = Command::new(DRAINSPEC);
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe. It takes the capability from
    // what exec(2) can give; where we do not have it, there is nothing to take.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_CAPBSET_DROP, SYS_ADMIN, 0, 0, 0);
            Ok(())
        });
    }
    command
}

#[test]
fn a_link_that_cannot_be_made_skips_the_cell_and_changes_no_status() {
    let servers = Servers::new();
    servers.add("good", GOOD);
    let mut command = unprivileged();
    command.args(servers.arguments("good", "{connect-storm-over-delay,idle-exit}")).env("TMPDIR", servers.tmp());
    let told = contains("1 skipped: no link with delay can be made here").and(contains("--cap-add SYS_ADMIN"));
    assert_cmd::Command::from_std(command).assert().code(0).stdout(told);
    let results = servers.results();
    crate::results::assert_valid(&results);
    let verdict = |scenario: &str| {
        let cells = results["cells"].as_array().unwrap();
        cells.iter().find(|cell| cell["scenario"] == scenario).unwrap()["verdict"].clone()
    };
    assert_eq!((verdict("connect-storm-over-delay"), verdict("idle-exit")), ("skipped".into(), "pass".into()));

    // The timeline says it as well.
    let mut judge = Command::new(DRAINSPEC);
    judge.arg("judge").arg(servers.out());
    assert_cmd::Command::from_std(judge).assert().code(0).stdout(contains("0 cells differ"));
}

#[test]
fn doctor_says_what_is_skipped_and_the_way_out() {
    let mut command = unprivileged();
    command.arg("doctor");
    let told = contains("delayed link").and(contains("is skipped (`connect-storm-over-delay`)"));
    assert_cmd::Command::from_std(command).assert().stdout(told.and(contains("--device /dev/net/tun")));
}
