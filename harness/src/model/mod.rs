//! Models of what stands between clients and servers, for machines that have none of it: pure functions of state, time
//! and input. No clock, no socket, no randomness: whoever drives a model tells it the time and brings the jitter as
//! data, so that a run can be repeated.

pub mod kubelet;
pub mod service;
pub mod target_group;
