//! What a pod's container writes: its first lines, which say who it is, and what it says when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;

use super::access::Right;
use super::connect::Cluster;
use super::facts::{Fact, PodId};
use crate::process::Splitter;

const READ: Right = Right::to("get", "", "pods/log");
/// Of what a pod wrote before anybody watched, so much is read, in bytes, and so many lines of it are told.
const HEAD: (i64, usize) = (16 << 10, 20);
/// So many lines are told of a pod while it runs, and as many again when it stops.
const LINES: u64 = 500;

/// A pod whose lines are told.
pub struct Written {
    /// The cluster.
    pub cluster: Cluster,
    /// The pod.
    pub pod: PodId,
    /// Its container.
    pub container: String,
    /// Whether it ran already when the watch began.
    pub from_before: bool,
    /// Whether it is to stop by now.
    pub stops: Arc<AtomicBool>,
}

impl Written {
    /// Tells its lines until it ends. A log that cannot be read is said to be so, and is no reason to stop watching.
    pub async fn read(self, tell: impl Fn(Fact) + Send) {
        let log = |line: String| Fact::Log { pod: self.pod.clone(), line };
        let api = self.cluster.api::<Pod>();
        let mut asked = LogParams { container: Some(self.container.clone()), ..LogParams::default() };
        if self.from_before {
            let head = LogParams { limit_bytes: Some(HEAD.0), ..asked.clone() };
            let head = self.cluster.answer(READ, api.logs(&self.pod.name, &head)).await.unwrap_or_default();
            head.lines().take(HEAD.1).map(str::to_owned).map(log).for_each(&tell);
            asked.since_seconds = Some(1);
        }
        asked.follow = true;
        let mut lines = match self.cluster.answer(READ, api.log_stream(&self.pod.name, &asked)).await {
            Ok(lines) => Box::pin(lines),
            Err(error) => {
                let (pod, reason) = (Some(self.pod.clone()), "LogUnread".to_owned());
                return tell(Fact::Notice { pod, reason, message: error.to_string(), said: None });
            }
        };
        let (mut chunk, mut splitter) = (vec![0; 16 << 10], Splitter::default());
        let (mut running, mut stopping) = (0, 0);
        let mut take = |line: String| {
            let told = if self.stops.load(Ordering::Relaxed) { &mut stopping } else { &mut running };
            *told += 1;
            match *told {
                ..=LINES => tell(log(line)),
                number if number == LINES + 1 => tell(Fact::Unlogged { pod: self.pod.clone(), told: LINES }),
                _ => {}
            }
        };
        while let Ok(length @ 1..) = lines.read(&mut chunk).await {
            splitter.feed(&chunk[..length], &mut take);
        }
        splitter.rest().into_iter().for_each(take);
    }
}
