//! Any bytes: the reader returns a timeline or an error, and judging what it returned never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(timeline) = drainspec::timeline::read(bytes) {
        let _ = drainspec::runner::verdict(&timeline);
    }
});
