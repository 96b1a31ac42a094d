//! Manifests of Kubernetes, as they are read for the model of a pod.

use std::path::Path;
use std::time::Duration;

use drainspec::catalog::manifest::Manifest;
use drainspec::model::kubelet::{Get, Hook, Port};

/// A Deployment with this in its pod and this in its container, among other documents.
fn deployment(pod: &str, container: &str) -> String {
    let indent = |text: &str, by: usize| {
        let line = |line: &str| format!("{:by$}{line}\n", "");
        text.lines().map(line).collect::<String>()
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: app\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: app\n\
         spec:\n  selector: {{}}\n  template:\n    spec:\n{}      containers:\n      - name: server\n        ports:\n        \
         - {{name: http, containerPort: 8080}}\n        - {{name: admin, containerPort: 9090}}\n{}",
        indent(pod, 6),
        indent(container, 8)
    )
}

fn read(text: &str) -> Result<Manifest, String> {
    Manifest::read(Path::new("k8s/quick/some"), text).map_err(|error| error.to_string())
}

#[test]
fn what_a_manifest_says_is_read_and_what_it_leaves_out_is_as_kubernetes_has_it() {
    let text = deployment(
        "terminationGracePeriodSeconds: 12",
        "env: [{name: DRAIN_TIMEOUT, value: \"5\"}, {name: HOST, value: 0.0.0.0}, {name: ADMIN_PORT, value: \"9090\"}]\n\
         lifecycle: {preStop: {sleep: {seconds: 3}}}\n\
         readinessProbe: {httpGet: {path: /health/ready, port: http}, periodSeconds: 1}\n\
         livenessProbe: {httpGet: {port: 9090}, failureThreshold: 5, initialDelaySeconds: 7}",
    );
    let Manifest { pod, environment } = read(&text).unwrap();
    assert_eq!(pod.grace, Duration::from_secs(12));
    assert_eq!(pod.hook, Some(Hook::Sleep(Duration::from_secs(3))));
    assert_eq!(pod.startup, None);
    let readiness = pod.readiness.unwrap();
    assert_eq!(readiness.get, Get { path: "/health/ready".to_owned(), port: Port::Traffic });
    assert_eq!((readiness.period, readiness.successes, readiness.failures), (Duration::from_secs(1), 1, 3));
    let liveness = pod.liveness.unwrap();
    assert_eq!(liveness.get, Get { path: "/".to_owned(), port: Port::Admin });
    let times = (liveness.delay, liveness.period, liveness.timeout, liveness.failures);
    assert_eq!(times, (Duration::from_secs(7), Duration::from_secs(10), Duration::from_secs(1), 5));
    assert_eq!(environment.into_iter().collect::<Vec<_>>(), [("DRAIN_TIMEOUT".to_owned(), "5".to_owned())]);
    assert_eq!(read(&deployment("", "")).unwrap().pod.grace, Duration::from_secs(30));
}

#[test]
fn hooks_of_all_three_kinds_are_read() {
    let hook = |text: &str| read(&deployment("", &format!("lifecycle: {{preStop: {text}}}"))).unwrap().pod.hook;
    let command = ["/bin/sleep", "3"].map(str::to_owned).to_vec();
    assert_eq!(hook("{exec: {command: [/bin/sleep, \"3\"]}}"), Some(Hook::Exec(command)));
    let get = Get { path: "/prestop".to_owned(), port: Port::Admin };
    assert_eq!(hook("{httpGet: {path: /prestop, port: admin}}"), Some(Hook::Get(get)));
    assert_eq!(read(&deployment("", "lifecycle: {}")).unwrap().pod.hook, None);
}

#[test]
fn what_cannot_be_played_is_named() {
    let cases = [
        ("kind: Service".to_owned(), "`kind`: there is no Deployment"),
        (format!("{}\n---\n{0}", deployment("", "")), "`kind`: there are several Deployments"),
        (
            deployment("terminationGracePeriodSeconds: -1", ""),
            "`terminationGracePeriodSeconds`: -1 is no number of seconds",
        ),
        (deployment("", "- name: second"), "`containers`: expected one, found 2"),
        (
            deployment("", "lifecycle: {preStop: {tcpSocket: {port: 1}}}"),
            "`preStop`: expected one of `sleep`, `exec` and `httpGet`",
        ),
        (deployment("", "lifecycle: {preStop: {exec: {command: []}}}"), "`preStop.exec.command`: it is empty"),
        (deployment("", "readinessProbe: {tcpSocket: {port: 1}}"), "`readinessProbe`: the model knows `httpGet` alone"),
        (
            deployment("", "readinessProbe: {httpGet: {port: web}}"),
            "`readinessProbe.port`: port `web` is none of the container's ports `http` and `admin`",
        ),
    ];
    for (text, expected) in cases {
        let text = text.replace("        - name: second", "      - name: second");
        assert_eq!(read(&text), Err(format!("k8s/quick/some/kustomization.yaml: {expected}")), "{text}");
    }
    for text in ["kind: [", "kind: Deployment\nspec: 7", "\u{0}", "a: &a [*a]"] {
        assert!(read(text).is_err(), "{text}");
    }
}
