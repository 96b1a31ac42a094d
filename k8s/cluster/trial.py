"""Whether a cluster that is up does what the tests need of it, and whether it takes what k8s/ has to offer."""

import json
import os
from functools import partial
from pathlib import Path

from cluster import HOME, Engine, find, kubectl, nodes
from machine import LOGS, ROOT, Failure, output, remove, step, succeeds, wait_for
from server_images import images

NAMESPACE = "drainspec-try"
RESTRICTED = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
K8S = ROOT / "k8s"
KUSTOMIZATION = """
resources: [{base}]
components: [{port}]
namespace: {namespace}
images:
  - name: drainspec/server
    newName: {name}
    newTag: {tag}
"""


def attempt() -> None:
    engine = find()
    name, tag = images(["go"])["go"].split(":")
    clear(engine)
    try:
        kubectl(engine, "create", "namespace", NAMESPACE)
        kubectl(engine, "label", "namespace", NAMESPACE, *RESTRICTED)
        with step("two pods of the Go server"):
            deploy(engine, name, tag)
        with step("an answer at a node's address"):
            ask(engine)
        for folder in sorted(
            path.parent for kind in ("overlays", "quick") for path in K8S.glob(f"{kind}/*/kustomization.yaml")
        ):
            with step(f"{folder.relative_to(ROOT)}, where Pod Security is “restricted”"):
                admits(engine, folder)
    finally:
        with step("end of the namespace"):
            clear(engine)


def clear(engine: Engine) -> None:
    kubectl(engine, "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout", "90s")
    remove(HOME / "trial")


def deploy(engine: Engine, name: str, tag: str) -> None:
    folder = HOME / "trial"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(
        KUSTOMIZATION.format(
            base=os.path.relpath(K8S / "quick/prestop-sleep", folder.resolve()),
            port=os.path.relpath(K8S / "components/node-port", folder.resolve()),
            namespace=NAMESPACE,
            name=name,
            tag=tag,
        )
    )
    kubectl(engine, "apply", "--kustomize", str(folder))
    kubectl(engine, "--namespace", NAMESPACE, "rollout", "status", "deployment", "--timeout", "90s")


def ask(engine: Engine) -> None:
    port = kubectl(
        engine,
        "--namespace",
        NAMESPACE,
        "get",
        "service",
        "--output",
        "jsonpath={.items[0].spec.ports[0].nodePort}",
    )
    addresses = kubectl(
        engine,
        "get",
        "nodes",
        "--output",
        'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}',
    )
    for address in addresses.split():
        question = engine.beside("curl", "--silent", "--fail", "--max-time", "2", f"http://{address}:{port}/")
        # The rollout is over a moment before the last node has its rules.
        try:
            wait_for(question[-1], 30, partial(succeeds, question))
        except Failure as failure:
            raise Failure(f"{failure}; what each node knew of it is in {keep_rules(engine)}") from None


def keep_rules(engine: Engine) -> Path:
    """For the namespace, and with it the rules, are about to be removed."""
    path = LOGS / "rules.log"
    show = "hostname; ip route; iptables-save --table nat; conntrack --dump; cat /var/log/pods/kube-system_kube-proxy-*/*/*.log"
    said = [output(engine.command("docker", "exec", node, "sh", "-c", show)) for node in nodes(engine)]
    path.write_text("\n\n".join(said))
    return path


def admits(engine: Engine, folder: Path) -> None:
    """The API takes every object without a warning, and a pod as the Deployment would make it; not one that is privileged."""
    apply = ["--namespace", NAMESPACE, "apply", "--kustomize", str(folder), "--output", "json"]
    kubectl(engine, *apply, "--dry-run=server", "--warnings-as-errors")

    # Pod Security looks at pods: a Deployment whose pods it will refuse gets a warning at most.
    objects = json.loads(kubectl(engine, *apply, "--dry-run=client"))["items"]
    template = next(item["spec"]["template"] for item in objects if item["kind"] == "Deployment")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "trial"}, "spec": template["spec"]}
    create = ["--namespace", NAMESPACE, "create", "--dry-run=server", "--filename", "-"]
    kubectl(engine, *create, input=json.dumps(pod))

    context = pod["spec"]["containers"][0]["securityContext"]
    context |= {"privileged": True, "allowPrivilegeEscalation": True}
    try:
        kubectl(engine, *create, input=json.dumps(pod))
    except Failure as refusal:
        if "violates PodSecurity" not in str(refusal):
            raise
    else:
        raise Failure(
            f"{folder.relative_to(ROOT)}: a privileged container was admitted as well: nothing is enforced"
        )
