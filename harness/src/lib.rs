//! drainspec is to graceful shutdown what h2spec is to HTTP/2: it sends real signals to real servers over real
//! sockets, records what happens, and judges it.
//!
//! A pure core ([`timeline`] → [`rules`] → [`verdict`], [`measures`], and [`model`] beside them) knows nothing of the
//! world; around it, [`process`], [`client`] and [`topology`] act, [`scenario`] says in which order, [`recorder`] writes the timeline,
//! [`report`] and [`cli`] face the user.

pub mod bench;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod compare;
pub mod expectation;
pub mod link;
pub mod measures;
pub mod model;
pub mod process;
mod quiet;
pub mod recorder;
pub mod report;
pub mod results;
pub mod rollout;
pub mod rules;
pub mod runner;
pub mod scenario;
pub mod schedule;
pub mod timeline;
pub mod topology;
pub mod verdict;
