//! A cluster of a few lines: an API server that lists, watches and takes one patch, and a Service with whoever answers in
//! it. What a restart does is played by [`Play`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a restart does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// The old pod is gone before everybody knows.
    Loses,
    /// The new one answers before the old one goes.
    Keeps,
    /// As `Keeps`, and every watch breaks on the way, with an error that asks for a new list.
    Forgets,
    /// The new pod never gets its image, and the controller gives up.
    Sticks,
}

/// A fake cluster; gone with this.
pub struct FakeCluster {
    /// A folder with the kubeconfig.
    pub folder: tempfile::TempDir,
    /// Where users come in.
    pub service: u16,
    api: Arc<Api>,
    _runtime: tokio::runtime::Runtime,
}

struct Api {
    play: Play,
    /// `verb resource` that is not granted.
    denied: Vec<&'static str>,
    service: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    version: u64,
    things: BTreeMap<&'static str, BTreeMap<String, Value>>,
    watches: Vec<(&'static str, UnboundedSender<Value>)>,
    patches: Vec<Value>,
    answers: Option<tokio::task::JoinHandle<()>>,
}

impl FakeCluster {
    pub fn start(play: Play, hook: bool, denied: &[&'static str]) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (api, port) = runtime.block_on(async {
            let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = service.local_addr().unwrap().port();
            let api = Api { play, denied: denied.to_vec(), service: port, state: Mutex::default() };
            let api = Arc::new(api);
            api.begin(hook);
            api.state.lock().unwrap().answers = Some(tokio::spawn(serve(service, "app-old")));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(listen(api.clone(), listener));
            (api, port)
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config"), kubeconfig(&format!("http://127.0.0.1:{port}"))).unwrap();
        Self { folder, service: api.service, api, _runtime: runtime }
    }

    /// Everything that was written.
    pub fn patches(&self) -> Vec<Value> {
        self.api.state.lock().unwrap().patches.clone()
    }
}

pub fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\nclusters: [{{name: c, cluster: {{server: \"{server}\"}}}}]\n\
         users: [{{name: u, user: {{}}}}]\ncontexts: [{{name: here, context: {{cluster: c, user: u, namespace: shop}}}}]\n"
    )
}

/// Answers every request, as this instance.
async fn serve(listener: TcpListener, instance: &'static str) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let answer = hyper::service::service_fn(move |_| async move {
                let answer = Response::builder().header("X-Instance-Id", instance).body(Full::new(Bytes::from("ok")));
                Ok::<_, Infallible>(answer.unwrap())
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn listen(api: Arc<Api>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let api = api.clone();
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(api.answer(request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn reply(status: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed();
    Response::builder().status(status).header("Content-Type", "application/json").body(body).unwrap()
}

fn refusal(status: StatusCode, reason: &str) -> Answer {
    let value =
        json!({ "kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": status.as_u16() });
    reply(status, &value)
}

const RESOURCES: [&str; 6] = ["deployments", "pods", "services", "endpointslices", "events", "namespaces"];

impl Api {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or("").to_owned());
        let method = request.method().clone();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if path.ends_with("/selfsubjectaccessreviews") {
            return reply(StatusCode::CREATED, &self.review(body));
        }
        if path.ends_with("/log") {
            let body = Full::new(Bytes::from("serving\n")).boxed();
            return Response::new(body);
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let Some(at) = parts.iter().rposition(|part| RESOURCES.contains(part)) else {
            return refusal(StatusCode::NOT_FOUND, "NotFound");
        };
        let resource = RESOURCES.into_iter().find(|resource| *resource == parts[at]).unwrap();
        let verb = match (&method, parts.get(at + 1), query.contains("watch=true")) {
            (&Method::PATCH, ..) => "patch",
            (_, Some(_), _) => "get",
            (_, None, true) => "watch",
            (_, None, false) => "list",
        };
        if resource != "namespaces" && !path.contains("/namespaces/shop/") {
            return refusal(StatusCode::NOT_FOUND, "NotFound");
        }
        if self.denied.contains(&format!("{verb} {resource}").as_str()) {
            return refusal(StatusCode::FORBIDDEN, "Forbidden");
        }
        match (verb, parts.get(at + 1)) {
            ("watch", _) => self.watch(resource),
            ("list", _) => reply(StatusCode::OK, &self.list(resource)),
            (_, Some(name)) => {
                let Some(found) = self.get(resource, name) else { return refusal(StatusCode::NOT_FOUND, "NotFound") };
                if verb != "patch" {
                    return reply(StatusCode::OK, &found);
                }
                self.state.lock().unwrap().patches.push(body);
                let mut changed = found;
                changed["metadata"]["generation"] = json!(2);
                self.put("deployments", changed.clone());
                tokio::spawn(self.clone().roll());
                reply(StatusCode::OK, &changed)
            }
            _ => refusal(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn review(&self, mut review: Value) -> Value {
        let wanted = &review["spec"]["resourceAttributes"];
        let right = format!("{} {}", wanted["verb"].as_str().unwrap(), wanted["resource"].as_str().unwrap());
        review["status"] = json!({ "allowed": !self.denied.contains(&right.as_str()) });
        review
    }

    fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().things.get(resource)?.get(name).cloned()
    }

    fn list(&self, resource: &str) -> Value {
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> = state.things.get(resource).into_iter().flat_map(BTreeMap::values).collect();
        json!({ "metadata": { "resourceVersion": state.version.to_string() }, "items": items })
    }

    fn watch(&self, resource: &'static str) -> Answer {
        let (tell, told): (_, UnboundedReceiver<Value>) = unbounded_channel();
        self.state.lock().unwrap().watches.push((resource, tell));
        let frames = futures_util::stream::unfold(told, async |mut told| {
            let line = format!("{}\n", told.recv().await?);
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), told))
        });
        Response::new(BodyExt::boxed(StreamBody::new(Box::pin(frames))))
    }

    fn put(&self, resource: &'static str, mut thing: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        thing["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = thing["metadata"]["name"].as_str().unwrap().to_owned();
        state.things.entry(resource).or_default().insert(name, thing.clone());
        state.tell(resource, "MODIFIED", thing);
    }

    fn remove(&self, resource: &'static str, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let thing = state.things.entry(resource).or_default().remove(name).unwrap();
        state.tell(resource, "DELETED", thing);
    }

    /// Ends every watch, and says that it has gone on for too long.
    fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        let status =
            json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old", "code": 410 });
        for (_, watch) in std::mem::take(&mut state.watches) {
            let _ = watch.send(json!({ "type": "ERROR", "object": status }));
        }
    }

    fn begin(&self, hook: bool) {
        self.put("namespaces", json!({ "metadata": { "name": "shop" } }));
        let lifecycle = if hook { json!({ "preStop": { "sleep": { "seconds": 1 } } }) } else { json!(null) };
        let pod = json!({
            "metadata": { "labels": { "app": "app" } },
            "spec": { "containers": [{
                "name": "app", "ports": [{ "containerPort": 8080 }], "lifecycle": lifecycle,
                "readinessProbe": { "httpGet": { "path": "/", "port": 8080 } }
            }] }
        });
        let mut deployment = json!({
            "metadata": { "name": "app", "namespace": "shop", "generation": 1 },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": { "app": "app" } }, "template": pod,
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } }
            },
        });
        deployment["status"] = status(1, 1, 1);
        self.put("deployments", deployment);
        let ports = json!([{ "port": 80, "targetPort": 8080 }]);
        let service =
            json!({ "metadata": { "name": "web" }, "spec": { "selector": { "app": "app" }, "ports": ports } });
        self.put("services", service);
        self.put("pods", pod_of("app-old", true));
        self.slice(&[("app-old", true)]);
    }

    fn slice(&self, pods: &[(&str, bool)]) {
        let endpoint = |(name, ready): &(&str, bool)| {
            json!({
                "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": name, "uid": name },
                "conditions": { "ready": ready, "serving": true, "terminating": !ready }
            })
        };
        let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
        self.put(
            "endpointslices",
            json!({ "metadata": { "name": "web-1" }, "addressType": "IPv4", "endpoints": endpoints }),
        );
    }

    fn progress(&self, of: Value) {
        let mut deployment = self.get("deployments", "app").unwrap();
        deployment["status"] = of;
        self.put("deployments", deployment);
    }

    async fn roll(self: Arc<Self>) {
        let pause = async |ms| tokio::time::sleep(Duration::from_millis(ms)).await;
        pause(100).await;
        self.put("pods", pod_of("app-new", false));
        if self.play == Play::Sticks {
            return self.stick();
        }
        self.progress(status(2, 2, 1));
        pause(300).await;
        self.put("pods", pod_of("app-new", true));
        self.slice(&[("app-old", true), ("app-new", true)]);
        pause(200).await;
        if self.play == Play::Forgets {
            self.forget();
        }
        if self.play != Play::Loses {
            self.answer_as("app-new", Duration::ZERO).await;
        }
        let mut old = self.get("pods", "app-old").unwrap();
        old["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:50Z");
        old["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        self.put("pods", old.clone());
        self.slice(&[("app-old", false), ("app-new", true)]);
        if self.play == Play::Loses {
            self.answer_as("app-new", Duration::from_millis(400)).await;
        }
        let ended = json!({ "exitCode": 2, "reason": "Error", "finishedAt": "2026-01-02T03:04:21Z" });
        old["status"]["containerStatuses"][0]["state"] = json!({ "terminated": ended });
        self.put("pods", old);
        self.slice(&[("app-new", true)]);
        pause(100).await;
        self.remove("pods", "app-old");
        self.progress(status(2, 1, 1));
    }

    fn stick(&self) {
        let mut pod = self.get("pods", "app-new").unwrap();
        pod["status"]["containerStatuses"][0]["state"] = json!({ "waiting": { "reason": "ErrImagePull" } });
        self.put("pods", pod);
        let mut stuck = status(2, 2, 1);
        stuck["conditions"] = json!([{
            "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "it has timed out"
        }]);
        self.progress(stuck);
    }

    /// Somebody else answers, after a time in which nobody does. Kept connections end either way.
    async fn answer_as(&self, instance: &'static str, after: Duration) {
        let here = SocketAddr::from(([127, 0, 0, 1], self.service));
        if let Some(before) = self.state.lock().unwrap().answers.take() {
            before.abort();
        }
        tokio::time::sleep(after).await;
        let listener = loop {
            match TcpListener::bind(here).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.state.lock().unwrap().answers = Some(tokio::spawn(serve(listener, instance)));
    }
}

impl State {
    fn tell(&mut self, resource: &str, kind: &str, thing: Value) {
        let event = json!({ "type": kind, "object": thing });
        self.watches.retain(|(of, watch)| *of != resource || watch.send(event.clone()).is_ok());
    }
}

/// As many pods are wanted as there is one.
fn status(generation: i64, present: u32, updated: u32) -> Value {
    json!({
        "observedGeneration": generation, "replicas": present, "updatedReplicas": updated,
        "readyReplicas": 1, "availableReplicas": 1
    })
}

fn pod_of(name: &str, ready: bool) -> Value {
    let running = json!({ "running": { "startedAt": "2026-01-02T03:04:06Z" } });
    json!({
        "metadata": { "name": name, "uid": name, "creationTimestamp": "2026-01-02T03:04:05Z" },
        "spec": { "nodeName": "n1", "containers": [] },
        "status": {
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            "containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": ready, "restartCount": 0,
                "state": if ready { running } else { json!({ "waiting": { "reason": "ContainerCreating" } }) }
            }]
        }
    })
}
