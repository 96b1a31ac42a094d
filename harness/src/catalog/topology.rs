//! What stands between clients and a server: nothing, a balancer with one of the configurations of `lb-configs`, or a
//! Service of Kubernetes before pods as one of the folders of `k8s/quick` has them; each is a folder with a `topology.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CatalogError, Feature, KnownFailures, parse_toml, read};
use crate::expectation::DIRECT;

/// Which balancer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancer {
    /// None.
    None,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// The model of an AWS Application Load Balancer.
    Alb,
    /// The model of what Kubernetes makes of pods and their Service.
    Pod,
    /// A cluster.
    Cluster,
}

impl Balancer {
    /// The folders of `lb-configs`, and the one of `k8s`; and what a topology below each is called before its own name.
    const FOLDERS: [(&str, &str, Self); 5] = [
        ("nginx", "nginx", Self::Nginx),
        ("haproxy", "haproxy", Self::Haproxy),
        ("aws-alb", "aws-alb", Self::Alb),
        ("quick", "pod", Self::Pod),
        ("quick", "kubernetes", Self::Cluster),
    ];

    fn is_program(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy)
    }
}

/// What a configuration is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// Behind it a server that is in order loses nothing.
    Recommended,
    /// It loses requests, or does them twice, whatever the server.
    Warning,
}

impl Advice {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Recommended => "recommended",
            Self::Warning => "warning",
        }
    }
}

/// How an instance is taken out before it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withdrawal {
    /// Not at all.
    None,
    /// It is marked in the configuration, which is read again.
    Reload,
    /// The balancer is told through its own socket.
    RuntimeApi,
    /// By its own readiness, in its lame-duck.
    Readiness,
    /// As by readiness, through a program that the balancer asks.
    Agent,
    /// It is deregistered, and drained, before it is stopped.
    Deregister,
    /// It is deregistered and stopped at the same time.
    DeregisterAndStop,
    /// Its pod is deleted: whoever connects is told while it stops.
    Pod,
    /// Whoever connects is told at once.
    Table,
}

impl Withdrawal {
    /// In words: what a deploy does before it stops an instance.
    pub fn words(self) -> &'static str {
        match self {
            Self::None => "nothing is done before an instance is stopped",
            Self::Reload => "an instance is marked in the configuration, which is read again, before it is stopped",
            Self::RuntimeApi => "the balancer is told through its socket before an instance is stopped",
            Self::Readiness => "the balancer sees by the readiness of an instance that it stops, in its lame-duck",
            Self::Agent => "an agent tells the balancer that an instance stops, in its lame-duck",
            Self::Deregister => "an instance is deregistered, and drained, before it is stopped",
            Self::DeregisterAndStop => "an instance is deregistered and stopped at the same time",
            Self::Pod => "a pod is deleted: its preStop hook and the news of its end set out at the same time",
            Self::Table => "clients are told at once",
        }
    }
}

/// What a reload of the balancer does to those who ask meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reload {
    /// Nothing.
    Lossless,
    /// It may close a connection on which a request is on its way.
    Races,
}

/// What stands between clients and a server.
#[derive(Debug, Clone)]
pub struct Topology {
    /// `direct`, the folder below `lb-configs`, such as `nginx/withdraw`, or `pod/` and the folder below `k8s/quick`.
    pub name: String,
    /// Its folder; the current one where it has none.
    pub folder: PathBuf,
    /// Which balancer it is.
    pub balancer: Balancer,
    /// What its `topology.toml` says.
    pub spec: TopologySpec,
    /// What its `known.toml` says: of every server.
    pub known: KnownFailures,
    /// Where it is played, if that is a cluster and one was named.
    pub cluster: Option<Arc<ClusterPlace>>,
}

/// A cluster, and what is run there.
#[derive(Debug, Clone, Default)]
pub struct ClusterPlace {
    /// A context of the kubeconfig; by default its current one.
    pub context: Option<String>,
    /// The image of each server, by its name.
    pub images: BTreeMap<String, String>,
    /// The image of every other one: `{server}` stands for its name, with `-` for `/`.
    pub image: Option<String>,
}

impl ClusterPlace {
    /// The image of a server.
    pub fn image(&self, server: &str) -> String {
        let name = server.replace('/', "-");
        match (self.images.get(server), &self.image) {
            (Some(image), _) => image.clone(),
            (None, Some(image)) => image.replace("{server}", &name),
            (None, None) => format!("drainspec/{name}:{}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// The contents of a `topology.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologySpec {
    /// What it is there for.
    pub kind: Advice,
    /// One line about it.
    pub summary: String,
    /// The balancer's own file, or what kustomize reads.
    pub file: String,
    /// Where the balancer listens, as it stands in that file.
    pub listen: Option<SocketAddr>,
    /// The instances, as they stand there.
    #[serde(default)]
    pub instances: Vec<SocketAddr>,
    /// More addresses that stand there, for probes and agents.
    #[serde(default)]
    pub others: Vec<SocketAddr>,
    /// A program of the folder that runs beside the balancer.
    #[serde(default)]
    pub agent: Vec<String>,
    /// How an instance is taken out.
    pub withdraw: Withdrawal,
    /// What a reload does; `None` where there is nothing to reload.
    pub reload: Option<Reload>,
    /// Whether it is played where nobody asks for it; where nothing is said, if it is recommended.
    pub by_default: Option<bool>,
    /// What a server must be able to do.
    #[serde(default)]
    pub needs: Vec<Feature>,
    /// Seconds, and counts of probes, by their names in the balancer's configuration.
    pub budget: BTreeMap<String, f64>,
}

impl Topology {
    /// Nothing stands between them: whoever connects chooses an instance, and is told of changes at once.
    pub fn direct() -> Self {
        Self {
            name: DIRECT.to_owned(),
            folder: PathBuf::from("."),
            balancer: Balancer::None,
            spec: TopologySpec {
                kind: Advice::Recommended,
                summary: "nothing stands between; clients choose an instance, and are told of changes at once"
                    .to_owned(),
                file: String::new(),
                listen: None,
                instances: Vec::new(),
                others: Vec::new(),
                agent: Vec::new(),
                withdraw: Withdrawal::Table,
                reload: None,
                by_default: None,
                needs: Vec::new(),
                budget: BTreeMap::new(),
            },
            known: KnownFailures::default(),
            cluster: None,
        }
    }

    /// Whether nothing stands between.
    pub fn is_direct(&self) -> bool {
        self.balancer == Balancer::None
    }

    /// Whether it starts a successor before it ends an instance, in another place: pods come and go so.
    pub fn is_pods(&self) -> bool {
        matches!(self.balancer, Balancer::Pod | Balancer::Cluster)
    }

    /// Whether instances are those of a cluster.
    pub fn is_cluster(&self) -> bool {
        self.balancer == Balancer::Cluster
    }

    /// Reads the configurations in a folder, which is `lb-configs/BALANCER/NAME` or `k8s/quick/NAME`: manifests are one for
    /// the model, and one for a cluster.
    ///
    /// # Errors
    /// Names the file, the line or key, and what is wrong.
    pub fn load(root: &Path, folder: &Path) -> Result<Vec<Self>, CatalogError> {
        let path = folder.join("topology.toml");
        let spec: TopologySpec = parse_toml(&path, &read(&path)?)?;
        let value = |key: &str, reason: String| CatalogError::Value { path: path.clone(), key: key.to_owned(), reason };
        let below = folder.strip_prefix(root).unwrap_or(folder).to_string_lossy().into_owned();
        let (kind, own) = below.split_once('/').unwrap_or_default();
        let kinds: Vec<_> = Balancer::FOLDERS.into_iter().filter(|(folder, ..)| *folder == kind).collect();
        if kinds.is_empty() {
            let known = Balancer::FOLDERS.map(|(folder, ..)| folder).join(", ");
            let reason = format!("stands below `{kind}`, which is no balancer known here: {known}");
            return Err(value("topology.toml", reason));
        }
        if kinds.iter().any(|(.., balancer)| balancer.is_program())
            && (spec.listen.is_none() || spec.instances.is_empty())
        {
            return Err(value(
                "listen",
                "a proxy needs `listen` and `instances`, as they stand in its file".to_owned(),
            ));
        }
        if !folder.join(&spec.file).is_file() {
            return Err(value("file", format!("there is no {}", folder.join(&spec.file).display())));
        }
        if let Some((key, _)) = spec.budget.iter().find(|(_, value)| !value.is_finite() || **value < 0.0) {
            return Err(value(key, "expected a number that is not negative".to_owned()));
        }
        let known = KnownFailures::load(folder)?;
        let of = |(_, prefix, balancer)| Self {
            name: format!("{prefix}/{own}"),
            folder: folder.to_owned(),
            balancer,
            spec: spec.clone(),
            known: known.clone(),
            cluster: None,
        };
        Ok(kinds.into_iter().map(of).collect())
    }

    /// Whether it is played where nobody asks for it.
    pub fn is_played_by_default(&self) -> bool {
        !self.is_cluster() && self.spec.by_default.unwrap_or(self.spec.kind == Advice::Recommended)
    }

    /// The lame-duck that a server behind it needs, in seconds, at the pace of [`Self::pace`].
    pub fn lame_duck(&self) -> f64 {
        self.budget("lame_duck") * self.pace()
    }

    /// How long a request may take that is to survive a replacement, in seconds, at the pace of [`Self::pace`].
    pub fn longest_request(&self) -> f64 {
        self.budget("longest_request") * self.pace()
    }

    /// By this its times are multiplied where it is played. Those of an ALB are minutes, and its model can be hurried.
    pub fn pace(&self) -> f64 {
        if self.balancer == Balancer::Alb { 0.1 } else { 1.0 }
    }

    /// A number of the budget; 0 where it has none.
    pub fn budget(&self, key: &str) -> f64 {
        self.spec.budget.get(key).copied().unwrap_or(0.0)
    }
}

/// `direct`, and all configurations below these folders, by name.
///
/// # Errors
/// The first `topology.toml` or `known.toml` that is not in order.
pub fn discover(roots: &[PathBuf]) -> Result<Vec<Topology>, CatalogError> {
    let mut topologies = vec![Topology::direct()];
    for root in roots {
        for balancer in folders(root)? {
            for folder in folders(&balancer)? {
                if folder.join("topology.toml").is_file() {
                    topologies.extend(Topology::load(root, &folder)?);
                }
            }
        }
    }
    // By balancer as in the list above; what is recommended comes before what is a warning.
    topologies.sort_by_key(|topology| {
        let balancer = Balancer::FOLDERS.iter().position(|(.., balancer)| *balancer == topology.balancer);
        (balancer.map_or(0, |at| at + 1), topology.spec.kind, topology.name.clone())
    });
    Ok(topologies)
}

/// The folders in a folder; none where there is no such folder.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let io = |source| CatalogError::Io { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let paths = entries.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}
