#!/usr/bin/env python3
"""Holds the manifests of k8s against Kubernetes' own schemas, and against what is said of them.

    .venv/bin/python scripts/check-k8s.py

- Every folder of quick, overlays and dependencies builds, and `kubectl kustomize` gives the same; so does the base with
  each component, and the example of k8s/README.md, whose NodePort is the one that kind-cluster.yaml maps.
- Each object has the fields that its schema has, and no other.
- Pods fulfil Pod Security "restricted", and more: a read-only root, no token, requests and limits, an image with a tag.
- Probes, hooks, Services and policies name ports that a container declares; selectors match; nothing but an httpGet hook
  opens the admin port.
- The parts of the grace period fit into it, and topology.toml has the numbers of the manifests.
- k8s/README.md names every folder.

Prints folder and fault of everything that does not hold, and ends with 1.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "k8s"
README = FOLDER / "README.md"
KIND_CLUSTER = FOLDER / "kind-cluster.yaml"

SCHEMAS = (
    "1.34",
    "1.36",
)  # the oldest Kubernetes in which all of it is stable, and the newest that was looked at
KUSTOMIZATION = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
SERVER = "server"  # the container whose grace period is reckoned up
HANDSHAKES = 1  # seconds that a closing listener gives handshakes which are half done
RELEASE = 2  # seconds to release what is left and to exit
KINDS = {"recommended", "warning"}
KEYS = {"kind", "summary", "file", "withdraw", "budget"}
BUDGET = {"prestop", "drain", "grace"}
# These may stand there, too: see lb-configs/README.md.
MAY = {"by_default", "needs"}
BUDGET_MAY = {"longest_request", "shutdown_delay"}
SECONDS = re.compile(r"\d+(\.\d+)?")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Those that "restricted" allows.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def main() -> int:
    if fault := missing_tool():
        print(fault)
        return 1
    folders = sorted(
        path for kind in ("quick", "overlays", "dependencies") for path in (FOLDER / kind).iterdir()
    )
    faults = [fault for folder in folders for fault in check_folder(folder)]
    components = sorted((FOLDER / "components").iterdir())
    faults += [fault for component in components for fault in check_component(component)]
    faults += check_example() + check_readme()
    for fault in faults:
        print(fault)
    print(f"{len(folders)} folders, {len(components)} components, {len(faults)} faults")
    return 1 if faults or not folders or not components else 0


def check_folder(folder: Path) -> list[str]:
    objects, faults = build(folder)
    if faults:
        return [f"{short(folder)}: {fault}" for fault in faults]
    faults = check_objects(objects)
    if folder.parent.name != "dependencies":
        faults += check_server(objects)
    if folder.parent.name == "quick":
        faults += check_topology(folder, objects)
    elif folder.parent.name == "overlays":
        faults += check_grace(objects)
    return [f"{short(folder)}: {fault}" for fault in faults]


def check_component(component: Path) -> list[str]:
    """With the numbers that people copy, which quick replaces."""
    text = KUSTOMIZATION + f"resources: [../k8s/base]\ncomponents: [../k8s/components/{component.name}]\n"
    objects, faults = build_text(text)
    faults = faults or check_objects(objects) + check_server(objects) + check_grace(objects)
    return [f"{short(component)}: on the base: {fault}" for fault in faults]


# --- building --------------------------------------------------------------------------------------------------


@functools.cache
def kustomize() -> str | None:
    """The one that scripts/setup.sh pins, or whichever is in PATH."""
    pinned = ROOT / "target/tools/kustomize"
    return str(pinned) if pinned.exists() else shutil.which("kustomize")


def missing_tool() -> str | None:
    return (
        None
        if kustomize()
        else "kustomize is neither in target/tools nor in PATH; ./scripts/setup.sh installs it"
    )


def build(folder: Path) -> tuple[list[dict], list[str]]:
    """The objects that a folder makes, or why it does not."""
    if not (folder / "kustomization.yaml").is_file():
        return [], ["has no kustomization.yaml"]
    done = run([kustomize(), "build", str(folder)])
    if done.returncode != 0:
        return [], [f"does not build: {done.stderr.strip()[-500:]}"]
    if shutil.which("kubectl"):
        other = run(["kubectl", "kustomize", str(folder)])
        if other.stdout != done.stdout:
            reason = other.stderr.strip()[-500:] or "something else than kustomize; compare the two"
            return [], [f"`kubectl kustomize` gives: {reason}"]
    return [without_nulls(item) for item in yaml.safe_load_all(done.stdout)], []


def build_text(text: str) -> tuple[list[dict], list[str]]:
    """The same of a kustomization.yaml that lies in a folder beside k8s."""
    (ROOT / "target").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        up = os.path.relpath(FOLDER, folder)
        (Path(folder) / "kustomization.yaml").write_text(text.replace("../k8s/", up + "/"))
        return build(Path(folder))


def without_nulls(value: object) -> object:
    """Kubernetes takes a field that is null for one that is not there."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- any object ------------------------------------------------------------------------------------------------


def check_objects(objects: list[dict]) -> list[str]:
    faults = [fault for item in objects for fault in check_schema(item)]
    if faults:
        return faults  # whatever comes next reads the fields
    pods = [item["spec"]["template"] for item in objects if "template" in item.get("spec", {})]
    for item in objects:
        found = []
        if item["kind"] == "Service":
            wanted = [port.get("targetPort", port["port"]) for port in item["spec"].get("ports", [])]
            found = check_selector(item["spec"].get("selector", {}), wanted, pods)
            found += ["the admin port belongs to no Service"] if "admin" in wanted else []
        elif item["kind"] == "NetworkPolicy":
            rules = item["spec"].get("ingress", [])
            wanted = [port["port"] for rule in rules for port in rule.get("ports", []) if "port" in port]
            found = check_selector(labels_of(item["spec"]["podSelector"]), wanted, pods)
        elif item["kind"] == "PodDisruptionBudget":
            found = check_selector(labels_of(item["spec"].get("selector", {})), [], pods)
        elif "template" in item.get("spec", {}):
            template = item["spec"]["template"]
            found = check_selector(labels_of(item["spec"]["selector"]), [], [template])
            found += check_pod(template["spec"])
        faults += [f"{item['kind']}/{item['metadata']['name']}: {fault}" for fault in found]
    return faults


def check_schema(item: dict) -> list[str]:
    name = f"{item.get('kind')}/{item.get('metadata', {}).get('name')}"
    for version in SCHEMAS:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path) or "at the top"
            return [f"{name}: {where}: {error.message} (Kubernetes {version})"]
        except kubernetes_validate.SchemaNotFoundError:
            return [f"{name}: Kubernetes {version} has no such kind in {item.get('apiVersion')}"]
    return []


def check_selector(labels: dict, ports: list, pods: list[dict]) -> list[str]:
    """Whoever selects pods finds one, and the ports that it names there."""
    selected = [pod for pod in pods if labels.items() <= pod.get("metadata", {}).get("labels", {}).items()]
    if not selected or not labels:
        return [f"selects no pod of this folder: {labels}"]
    there = {
        port for pod in selected for container in pod["spec"]["containers"] for port in declared(container)
    }
    return [
        f"port {port} is declared by no container; declared are {listed(there)}"
        for port in ports
        if port not in there
    ]


def labels_of(selector: dict) -> dict:
    return selector.get("matchLabels", {})


# --- pods ------------------------------------------------------------------------------------------------------


def check_pod(pod: dict) -> list[str]:
    faults = [f"{key} is not allowed" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    if pod.get("automountServiceAccountToken") is not False:
        faults.append("automountServiceAccountToken is not false")
    faults += [
        f"sysctl {sysctl['name']} is not wanted" for sysctl in pod.get("securityContext", {}).get("sysctls", [])
    ]
    faults += [
        f"volume {volume['name']}: {kind} is not one of {listed(VOLUMES)}"
        for volume in pod.get("volumes", [])
        for kind in sorted(volume.keys() - {"name"} - VOLUMES)
    ]
    for container in pod.get("initContainers", []) + pod["containers"]:
        found = check_security(pod, container) + check_resources(container) + check_image(container)
        found += check_ports(container)
        faults += [f"container {container['name']}: {fault}" for fault in found]
    return faults


def check_security(pod: dict, container: dict) -> list[str]:
    """Pod Security "restricted", written out. What a container says goes before what its pod says."""
    own = container.get("securityContext", {})
    either = pod.get("securityContext", {}) | own
    capabilities = own.get("capabilities", {})
    added = set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}
    rules = {
        "privileged is not allowed": not own.get("privileged"),
        "allowPrivilegeEscalation is not false": own.get("allowPrivilegeEscalation") is False,
        "capabilities do not drop ALL": "ALL" in capabilities.get("drop", []),
        f"capabilities add {listed(added)}": not added,
        "runAsNonRoot is not true": either.get("runAsNonRoot") is True,
        # A number above 0, because the kubelet cannot tell whether a name in the image is root's.
        "runAsUser is not a number above 0": (either.get("runAsUser") or 0) > 0,
        "seccompProfile is not RuntimeDefault": either.get("seccompProfile", {}).get("type")
        == "RuntimeDefault",
        "procMount is not Default": own.get("procMount", "Default") == "Default",
        "SELinux and Windows options are not wanted": not either.keys() & {"seLinuxOptions", "windowsOptions"},
        "AppArmor must not be switched off": either.get("appArmorProfile", {}).get("type") != "Unconfined",
        "hostPort is not allowed": not any(port.get("hostPort") for port in container.get("ports", [])),
        # From 1.34 on: a probe must not be sent elsewhere than to the pod.
        "`host` in a probe or hook is not allowed": not any(
            "host" in target for _, target in targets(container)
        ),
        "readOnlyRootFilesystem is not true": own.get("readOnlyRootFilesystem") is True,
    }
    return [fault for fault, holds in rules.items() if not holds]


def check_resources(container: dict) -> list[str]:
    resources = container.get("resources", {})
    return [
        f"resources.{kind} has no {what}"
        for kind in ("requests", "limits")
        for what in ("cpu", "memory")
        if what not in resources.get(kind, {})
    ]


def check_image(container: dict) -> list[str]:
    image = container["image"]
    if "@sha256:" in image:
        return []
    tag = image.rpartition("/")[2].partition(":")[2]
    return (
        []
        if tag not in ("", "latest")
        else [f"image {image}: needs a tag other than latest, which is pulled always"]
    )


def check_ports(container: dict) -> list[str]:
    there = declared(container)
    return [
        f"{what} asks on port {target['port']}, which is not declared; declared are {listed(there)}"
        for what, target in targets(container)
        if target["port"] not in there
    ]


def targets(container: dict) -> Iterator[tuple[str, dict]]:
    """Whatever the kubelet asks of a container over the network."""
    handlers = {probe: container.get(probe, {}) for probe in PROBES} | container.get("lifecycle", {})
    for what, handler in handlers.items():
        for action in ("httpGet", "tcpSocket", "grpc"):
            if action in handler:
                yield what, handler[action]


def declared(container: dict) -> set:
    return {
        port[key] for port in container.get("ports", []) for key in ("name", "containerPort") if key in port
    }


# --- the server's grace period ---------------------------------------------------------------------------------


def check_server(objects: list[dict]) -> list[str]:
    pod = pod_of(objects)
    if not pod:
        return [f"has no Deployment with a container {SERVER}"]
    container, env, hook = server_of(pod), environment(pod), hook_of(pod)
    faults = [f"has no {probe}" for probe in PROBES if probe not in container]
    if len(hook) > 1:
        faults.append(f"the preStop hook has more than one action: {listed(hook)}")
    if "ADMIN_HOST" in env and (env["ADMIN_HOST"] != "127.0.0.1") != ("httpGet" in hook):
        faults.append(
            f"ADMIN_HOST is {env['ADMIN_HOST']}: it leaves 127.0.0.1 for an httpGet hook, and for nothing else"
        )
    for variable, name in (("PORT", "http"), ("ADMIN_PORT", "admin")):
        ports = [str(port["containerPort"]) for port in container.get("ports", []) if port.get("name") == name]
        if variable in env and ports != [env[variable]]:
            faults.append(
                f"{variable} is {env[variable]}, but port {name} is {listed(ports) or 'not declared'}"
            )
    return faults + check_durations(pod)


def check_durations(pod: dict) -> list[str]:
    """Those that are text, and can be anything."""
    env, hook = environment(pod), hook_of(pod)
    faults = [
        f"{name} is {env[name]!r}: expected decimal seconds"
        for name in ("SHUTDOWN_DELAY", "DRAIN_TIMEOUT")
        if name in env and not SECONDS.fullmatch(env[name])
    ]
    command = hook.get("exec", {}).get("command", ["/bin/sleep", "0"])
    if command[:-1] != ["/bin/sleep"] or not SECONDS.fullmatch(command[-1]):
        faults.append(f"the preStop hook runs {command}: expected /bin/sleep and decimal seconds")
    return faults


def check_grace(objects: list[dict]) -> list[str]:
    pod = pod_of(objects)
    if not pod or check_durations(pod):
        return []  # which check_server has told
    prestop, drain, grace = budget(pod)
    env, hook = environment(pod), hook_of(pod)
    delay = 0 if "httpGet" in hook else float(env.get("SHUTDOWN_DELAY", 0))  # an httpGet hook waits for it
    needed = prestop + delay + HANDSHAKES + drain + RELEASE
    if needed <= grace:
        return []
    parts = (
        f"preStop {prestop:g} + SHUTDOWN_DELAY {delay:g} + {HANDSHAKES} + DRAIN_TIMEOUT {drain:g} + {RELEASE}"
    )
    return [f"terminationGracePeriodSeconds is {grace:g}, but {parts} is {needed:g}"]


def check_topology(folder: Path, objects: list[dict]) -> list[str]:
    try:
        topology = tomllib.loads((folder / "topology.toml").read_text())
    except FileNotFoundError:
        return ["has no topology.toml"]
    except tomllib.TOMLDecodeError as error:
        return [f"topology.toml: {error}"]
    faults = [f"topology.toml: `{key}` is missing" for key in sorted(KEYS - topology.keys())]
    faults += [f"topology.toml: `{key}` is not known here" for key in sorted(topology.keys() - KEYS - MAY)]
    if faults:
        return faults
    said = topology["budget"]
    if topology["kind"] not in KINDS:
        faults.append(f"topology.toml: kind = {topology['kind']!r}: expected one of {listed(KINDS)}")
    if topology["withdraw"] != "pod":
        faults.append(f"topology.toml: withdraw = {topology['withdraw']!r}: expected pod")
    if topology["file"] != "kustomization.yaml":
        faults.append(f"topology.toml: file = {topology['file']!r}: expected kustomization.yaml")
    if not isinstance(said, dict) or not BUDGET <= said.keys() <= BUDGET | BUDGET_MAY:
        told = f"expected a table of {listed(BUDGET)}, and perhaps {listed(BUDGET_MAY)}"
        return [*faults, f"topology.toml: budget is {said}: {told}"]
    pod = pod_of(objects)
    if not pod or check_durations(pod):
        return faults  # which check_server has told
    prestop, drain, grace = budget(pod)
    faults += [
        f"topology.toml: {key} = {said[key]}, but the manifest says {built:g}"
        for key, built in (("prestop", prestop), ("drain", drain), ("grace", grace))
        if said[key] != built
    ]
    too_short = check_grace(objects)
    if topology["kind"] == "recommended":
        faults += too_short if prestop > 0 else ["is recommended, and has no preStop hook"]
    elif prestop > 0 and not too_short:
        faults.append("topology.toml: is a warning, but it has a hook, and everything fits into the grace")
    return faults


def budget(pod: dict) -> tuple[float, float, float]:
    """Seconds: of the hook, of the drain, of the grace."""
    env = environment(pod)
    hook = hook_of(pod)
    if "sleep" in hook:
        prestop = hook["sleep"]["seconds"]
    elif "exec" in hook:
        prestop = hook["exec"]["command"][-1]  # /bin/sleep N
    else:
        prestop = env.get("SHUTDOWN_DELAY", 0) if "httpGet" in hook else 0
    return (
        float(prestop),
        float(env.get("DRAIN_TIMEOUT", 0)),
        float(pod.get("terminationGracePeriodSeconds", 30)),
    )


def pod_of(objects: list[dict]) -> dict | None:
    pods = (item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Deployment")
    return next((pod for pod in pods if server_of(pod)), None)


def server_of(pod: dict) -> dict | None:
    return next((container for container in pod["containers"] if container["name"] == SERVER), None)


def hook_of(pod: dict) -> dict:
    return server_of(pod).get("lifecycle", {}).get("preStop", {})


def environment(pod: dict) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in server_of(pod).get("env", [])}


# --- the page and its example ----------------------------------------------------------------------------------


def check_example() -> list[str]:
    """What k8s/README.md has people write beside k8s builds, and the cluster that it makes maps its NodePort."""
    found = re.search(r"^```yaml\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    if not found:
        return [f"{short(README)}: the example, a block of yaml, was not found: has it moved?"]
    objects, faults = build_text(found[1])
    faults = [f"the example: {fault}" for fault in faults or check_objects(objects)]
    node_ports = {
        port["nodePort"]
        for item in objects
        if item["kind"] == "Service"
        for port in item["spec"].get("ports", [])
        if "nodePort" in port
    }
    try:
        nodes = yaml.safe_load(KIND_CLUSTER.read_text())["nodes"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        return [f"{short(KIND_CLUSTER)}: not a cluster with nodes: {error}"]
    mapped = {mapping["containerPort"] for node in nodes for mapping in node.get("extraPortMappings", [])}
    if not faults and node_ports != mapped:
        faults.append(
            f"the example has NodePort {listed(node_ports) or 'none'}, {KIND_CLUSTER.name} maps {listed(mapped)}"
        )
    roles = sorted(node.get("role", "control-plane") for node in nodes)
    if roles != ["control-plane", "worker", "worker"]:
        faults.append(f"{KIND_CLUSTER.name} has {listed(roles)}: expected a control plane and two workers")
    return [f"{short(README)}: {fault}" for fault in faults]


def check_readme() -> list[str]:
    text = README.read_text()
    folders = [*(FOLDER / "components").iterdir(), *(path for path in FOLDER.iterdir() if path.is_dir())]
    names = sorted(str(path.relative_to(FOLDER)) for path in folders)
    return [
        f"{short(README)}: {name} is missing from the table"
        for name in names
        if name != "components" and f"| [{name}]({name}) |" not in text
    ]


def listed(values) -> str:
    return ", ".join(sorted(map(str, values)))


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
