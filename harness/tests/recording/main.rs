//! What comes onto the timeline: the client, the processes, the preconditions and the recorder itself, against servers
//! of a few lines that end, cut, stall, exit and are killed. Each test asserts on records.

mod arrivals;
mod bytes;
mod clock;
mod http;
mod preconditions;
mod processes;
mod record;
mod servers;
mod steady;
