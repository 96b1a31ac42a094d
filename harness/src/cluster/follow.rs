//! One kind of resource, followed: listed once, then watched, and listed again where the watch was broken for too long.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::access::Right;
use super::connect::Cluster;
use super::error::ClusterError;

/// The server ends a watch after so many seconds, and it is begun again where it was: so a connection that is dead
/// without saying so is noticed.
const WATCH_S: u32 = 30;
/// A watch that says nothing for so long is taken for dead.
const SILENT: Duration = Duration::from_secs(WATCH_S as u64 + 10);
/// How long it is waited before what has failed is tried again, from the second time on: what is lost once is asked for at
/// once, because pods come and go meanwhile.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Who sees nothing for so long says so.
const UNSEEN: Duration = Duration::from_secs(2);

/// What can be followed.
pub trait Followed:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Followed for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// What has changed.
pub enum Change<K> {
    /// This is all there is: what is not among it is gone.
    All(Vec<K>),
    /// It is new, or other than it was.
    Now(K),
    /// It is gone; this is what it was at the end.
    Gone(K),
    /// Nothing has been seen for a while, for this reason: what has changed meanwhile comes late.
    Unseen(String),
}

/// Resources of one kind, and where the watch on them has got to.
pub struct Follow<K> {
    cluster: Cluster,
    api: Api<K>,
    rights: [Right; 2],
    list: ListParams,
    version: String,
}

/// Why a watch has ended.
enum Over {
    /// It was time; it goes on where it was.
    InTime,
    /// It goes on with another list.
    Lost(String),
}

impl<K: Followed> Follow<K> {
    /// Lists them.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn start(
        cluster: &Cluster,
        group: &'static str,
        resource: &'static str,
        list: ListParams,
    ) -> Result<(Self, Vec<K>), ClusterError> {
        let rights = [Right::to("list", group, resource), Right::to("watch", group, resource)];
        let (cluster, api, version) = (cluster.clone(), cluster.api::<K>(), String::new());
        let mut follow = Self { cluster, api, rights, list, version };
        let found = follow.list().await?;
        Ok((follow, found))
    }

    async fn list(&mut self) -> Result<Vec<K>, ClusterError> {
        let list = self.cluster.answer(self.rights[0], self.api.list(&self.list)).await?;
        self.version = list.metadata.resource_version.unwrap_or_default();
        Ok(list.items)
    }

    /// Tells every change, until it is dropped.
    pub async fn go_on(mut self, mut tell: impl FnMut(Change<K>)) {
        let (mut wait, mut seen, mut told) = (Duration::ZERO, Instant::now(), false);
        loop {
            let began = Instant::now();
            let why = match self.watch(&mut tell, &mut seen).await {
                Ok(Over::InTime) => {
                    (wait, told) = (Duration::ZERO, false);
                    // A server that ends each watch at once is not asked without a pause.
                    tokio::time::sleep_until((began + AGAIN.0).into()).await;
                    continue;
                }
                Ok(Over::Lost(why)) => why,
                Err(error) => error.to_string(),
            };
            if !told && seen.elapsed() > UNSEEN {
                told = true;
                tell(Change::Unseen(why));
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).clamp(AGAIN.0, AGAIN.1);
            if let Ok(all) = self.list().await {
                (seen, told) = (Instant::now(), false);
                tell(Change::All(all));
            }
        }
    }

    async fn watch(&mut self, tell: &mut impl FnMut(Change<K>), seen: &mut Instant) -> Result<Over, ClusterError> {
        let watch = WatchParams {
            label_selector: self.list.label_selector.clone(),
            field_selector: self.list.field_selector.clone(),
            ..WatchParams::default().timeout(WATCH_S)
        };
        let events = self.cluster.answer(self.rights[1], self.api.watch(&watch, &self.version)).await?;
        let mut events = std::pin::pin!(events);
        *seen = Instant::now();
        loop {
            let Ok(event) = tokio::time::timeout(SILENT, events.next()).await else {
                return Ok(Over::Lost(format!("the watch said nothing for {} s", SILENT.as_secs())));
            };
            let version = |resource: &K| resource.meta().resource_version.clone();
            let (version, change) = match event {
                None => return Ok(Over::InTime),
                Some(Ok(WatchEvent::Added(resource) | WatchEvent::Modified(resource))) => {
                    (version(&resource), Some(Change::Now(resource)))
                }
                Some(Ok(WatchEvent::Deleted(resource))) => (version(&resource), Some(Change::Gone(resource))),
                Some(Ok(WatchEvent::Bookmark(mark))) => (Some(mark.metadata.resource_version), None),
                Some(Ok(WatchEvent::Error(status))) => return Ok(Over::Lost(status.message)),
                Some(Err(error)) => return Ok(Over::Lost(error.to_string())),
            };
            *seen = Instant::now();
            self.version = version.unwrap_or_default();
            change.into_iter().for_each(&mut *tell);
        }
    }
}
