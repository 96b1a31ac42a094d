//! What stands between clients and servers, played on this machine: a model decides, and a thin proxy around it holds
//! the sockets.

pub mod alb;
