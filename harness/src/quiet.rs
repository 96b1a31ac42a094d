//! Waiting for a machine that is busy with other things to be less so.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::process;

/// How long a look takes. It computes, because who only sleeps is let through at once on a busy machine as well.
const LOOK: Duration = Duration::from_millis(50);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// So much of a look may be spent waiting for a processor.
const WAITED: Duration = Duration::from_millis(5);
/// So many looks in a row make a quiet machine.
const IN_A_ROW: u32 = 4;

/// Waits until the machine is quiet, and no longer than this. Where the kernel does not tell, it is taken for quiet.
pub async fn quiet(until: Instant) {
    let mut in_a_row = 0;
    while in_a_row < IN_A_ROW && Instant::now() < until {
        let calm = tokio::task::spawn_blocking(is_calm).await.unwrap_or(true);
        in_a_row = if calm { in_a_row + 1 } else { 0 };
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a thread that computes is hardly kept waiting at this moment.
fn is_calm() -> bool {
    let thread = Path::new("/proc/thread-self");
    let Some(before) = process::waited(thread) else { return true };
    let began = Instant::now();
    while began.elapsed() < LOOK {
        std::hint::spin_loop();
    }
    process::waited(thread).is_none_or(|after| after.saturating_sub(before) <= WAITED)
}
