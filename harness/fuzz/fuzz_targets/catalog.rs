//! Any text as server.toml and known.toml: the reader returns a value or an error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("fuzz.toml");
    let _ = drainspec::catalog::Spec::parse(path, text);
    let _ = drainspec::catalog::KnownFailures::parse(path, text);
});
