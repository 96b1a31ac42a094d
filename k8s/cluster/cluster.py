"""The cluster itself: what is there of it, and how it comes and goes."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from engine import InABox, OfTheMachine
from machine import (
    CACHE,
    LOGS,
    NAME,
    ROOT,
    Failure,
    exclusive,
    logged,
    need_programs,
    need_root,
    need_space,
    output,
    remove,
    step,
    succeeds,
    wait_for,
)
from node_image import archive_of_node_image, load, name_of_node_image, node_system
from parts import NODE_IMAGE, kind, kubernetes

Engine = InABox | OfTheMachine

CONFIG = ROOT / "k8s/kind-cluster.yaml"
# What belongs to the cluster that is up. `down` removes it.
HOME = CACHE / NAME
KUBECONFIG = HOME / "kubeconfig"
PROGRAMS = HOME / "bin"
IMAGE = HOME / "node-image"  # which one it was
# kind puts all clusters of a machine into one network, which then belongs to none of them.
NETWORK = {"KIND_EXPERIMENTAL_DOCKER_NETWORK": NAME}


def up(own_docker: bool) -> None:
    with exclusive():
        if is_ready():
            print(f"{NAME} is up already.")
            return
        take_down()
        try:
            engine = start_docker(own_docker)
            create(engine, node_image(engine))
        except BaseException:
            take_down()
            raise
    print(f"{NAME} is up: `k8s/cluster/cluster run kubectl get nodes` asks it.")


def down() -> None:
    with exclusive():
        take_down()


# --- up ----------------------------------------------------------------------------------------------------------


def start_docker(own: bool) -> Engine:
    if not own and OfTheMachine.is_there():
        print("Docker: the machine's.")
        return OfTheMachine()
    need_root(
        "There is no Docker to use here, and one in namespaces of its own is started instead"
        if not own
        else "--own-docker"
    )
    need_programs("unshare", "nsenter", "setpriv", "tar", "apt-get", "go")
    need_space(6)
    need_kernel()
    engine = InABox(NAME)
    debian, tool = node_system(), kind()
    archive_of_node_image()  # before there is anything to take down
    with step("Docker, in namespaces of its own"):
        engine.start(debian, "own", {"bin/kind": tool}, outlives_us=True)
    return engine


def need_kernel() -> None:
    """Found out beforehand, for Docker would say it in the middle of a long log."""
    trials = {
        "network namespaces with bridges": "ip link add trial type bridge",
        "pairs of virtual network devices": "ip link add trial type veth peer name trial-peer",
        "overlay file systems": f"cd {HOME}/trial && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root",
    }
    for folder in ("lower", "upper", "work", "root"):
        (HOME / "trial" / folder).mkdir(parents=True, exist_ok=True)
    need_programs("ip", "mount")
    lacking = [
        what
        for what, trial in trials.items()
        if not succeeds(["unshare", "--net", "--mount", "sh", "-c", trial])
    ]
    groups = [
        mount.split()[1]
        for mount in Path("/proc/mounts").read_text().splitlines()
        if mount.split()[2].startswith("cgroup")
    ]
    if not any(os.access(group, os.W_OK) and not os.statvfs(group).f_flag & os.ST_RDONLY for group in groups):
        lacking.append("control groups that can be written to")
    remove(HOME / "trial")
    if lacking:
        raise Failure(
            f"Docker cannot run here, there are no {', no '.join(lacking)}. In a container that needs --privileged; for "
            f"overlay file systems {CACHE} must not lie on one: CLUSTER_CACHE puts it elsewhere."
        )


def node_image(engine: Engine) -> str | None:
    """The name of an image that was built here, or none: then it is kind's own, from a registry."""
    if not engine.own:
        with contextlib.suppress(Failure), step(f"docker pull {NODE_IMAGE.split('@')[0]}"):
            output(engine.command("docker", "pull", "--quiet", NODE_IMAGE))
            return None
        print("No registry has it for us: the image is built here.")
        need_root("To build the node image")
    archive = archive_of_node_image()
    with step("docker load, of the node image"):
        load(engine, archive)
    return name_of_node_image()


def create(engine: Engine, built: str | None) -> None:
    tool = "kind" if engine.own else kind()
    HOME.mkdir(parents=True, exist_ok=True)
    IMAGE.write_text(built or NODE_IMAGE)
    options = ["--name", NAME, "--config", CONFIG, "--kubeconfig", KUBECONFIG, "--image", built or NODE_IMAGE]
    environment = [f"{name}={value}" for name, value in NETWORK.items()]
    with step(f"kind create cluster --config {CONFIG.relative_to(ROOT)}"):
        try:
            command = ["env", *environment, tool, "create", "cluster", *options, "--wait", "240s", "--retain"]
            logged("kind-create", engine.command(*command))
        except Failure as failure:
            logs = LOGS / "nodes"
            remove(logs)
            if succeeds(engine.command(tool, "export", "logs", logs, "--name", NAME)):
                raise Failure(f"{failure}\n    The logs of the nodes are in {logs}.") from None
            raise
    provide_kubectl(engine, built)
    if built:
        # kubeadm installs CoreDNS, for which no image was built: it would be waited for in vain for ever.
        kubectl(
            engine,
            "--namespace",
            "kube-system",
            "delete",
            "deployment/coredns",
            "service/kube-dns",
            "--wait=false",
        )
    with step("every node ready"):
        wait_for(
            "every node is ready",
            180,
            is_ready,
            f"`k8s/cluster/cluster run kubectl describe nodes` says why; logs in {LOGS}",
        )


def provide_kubectl(engine: Engine, built: str | None) -> None:
    """Of the cluster's own version, whatever the machine has."""
    PROGRAMS.mkdir(exist_ok=True)
    if built:
        (PROGRAMS / "kubectl").symlink_to(kubernetes() / "kube")
    else:
        output(
            engine.command(
                "docker", "cp", "--follow-link", f"{NAME}-control-plane:/usr/bin/kubectl", PROGRAMS / "kubectl"
            )
        )


# --- down --------------------------------------------------------------------------------------------------------


def take_down() -> None:
    engine = OfTheMachine()
    if engine.is_there():
        containers = nodes(engine, also_ended=True)
        if containers:
            with step("end of the nodes"):
                output(engine.command("docker", "rm", "--force", "--volumes", *containers))
        if succeeds(engine.command("docker", "network", "inspect", NAME)):
            output(engine.command("docker", "network", "rm", NAME))
        if IMAGE.exists() and not has_registry():
            output(engine.command("docker", "rmi", "--force", IMAGE.read_text()))
    for box in (InABox(f"{NAME}-builder"), InABox(NAME)):
        with step(f"end of Docker in {box.name}") if box.pid() else contextlib.nullcontext():
            box.end(keep_data=box.name != NAME)
    for left in (HOME, *CACHE.glob("*-unfinished")):
        remove(left)


# --- there -------------------------------------------------------------------------------------------------------


def find() -> Engine:
    box = InABox(NAME)
    if box.pid():
        return box
    engine = OfTheMachine()
    if KUBECONFIG.exists() and engine.is_there() and nodes(engine):
        return engine
    raise Failure("The cluster is not up: start it with `k8s/cluster/cluster up`.")


def nodes(engine: Engine, also_ended: bool = False) -> list[str]:
    own = ["--filter", f"label=io.x-k8s.kind.cluster={NAME}"]
    every = ["--all"] if also_ended else []
    return output(engine.command("docker", "ps", *every, *own, "--format", "{{.Names}}")).split()


def is_ready() -> bool:
    try:
        engine = find()
        listed = json.loads(kubectl(engine, "get", "nodes", "--output", "json", "--request-timeout", "10s"))[
            "items"
        ]
        wanted = nodes(engine, also_ended=True)
    except Failure:
        return False
    ready = [
        node
        for node in listed
        if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
    ]
    return len(ready) == len(listed) == len(wanted) > 0


def has_registry() -> bool:
    """Whether the cluster came from one, and so whatever else is built may, too."""
    return IMAGE.exists() and IMAGE.read_text() == NODE_IMAGE


def environment(engine: Engine) -> dict[str, str]:
    path = f"{PROGRAMS}:{ROOT / 'target/tools'}:{os.environ.get('PATH', os.defpath)}"
    there = os.environ | NETWORK | {"KUBECONFIG": str(KUBECONFIG), "PATH": path}
    if engine.own:
        there["DOCKER_HOST"] = f"unix:///proc/{engine.pid()}/root/run/docker.sock"
    return there


def kubectl(engine: Engine, *words: str, **options) -> str:
    return output(engine.beside("kubectl", *words), env=environment(engine), **options)


def run(command: list[str]) -> None:
    """Becomes the command."""
    engine = find()
    words = engine.beside(*command)
    there = environment(engine)
    if not shutil.which(command[0], path=there["PATH"]):
        raise Failure(f"{command[0]}: there is no such program in {there['PATH']}")
    os.execvpe(words[0], words, there)


def forget() -> None:
    """A connection that was begun to a pod that is gone stays in its node's table of connections for two minutes, and a
    later one from the same port follows it there. Between two measurements the tables are emptied."""
    engine = find()
    for node in nodes(engine):
        output(engine.command("docker", "exec", node, "conntrack", "--flush"))
        print(f"{node}: forgotten")


def status() -> bool:
    try:
        engine = find()
    except Failure:
        print(f"{NAME} is down.")
        return False
    where = f"in namespaces of its own, process {engine.pid()}" if engine.own else "the machine's"
    print(f"{NAME} is {'up' if is_ready() else 'not ready'}. Docker: {where}. KUBECONFIG={KUBECONFIG}")
    with contextlib.suppress(Failure):
        print(kubectl(engine, "get", "nodes", "--output", "wide"))
    with contextlib.suppress(Failure):
        print(
            output(
                engine.command("docker", "stats", "--no-stream", "--format", "table {{.Name}}\t{{.MemUsage}}")
            )
        )
    return True
