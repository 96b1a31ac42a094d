//! The program as its users meet it: arguments in, words and exit statuses out, and servers that misbehave.

mod catalogue;
mod checking;
mod fake_cluster;
mod fleets;
mod interruption;
mod judging;
mod kubernetes;
mod misbehaving;
mod pods;
mod results;
mod rollout;
mod rollout_fleet;
mod servers;
#[cfg(target_os = "linux")]
mod skipping;
mod usage;
