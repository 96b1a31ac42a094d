"""The image that nodes are made of, where there is no registry to get it from."""

import shutil
from pathlib import Path

from engine import InABox, builder
from machine import CACHE, HERE, digest, logged, mortal, output, piped, remove, step
from parts import KIND, NODE_PACKAGES, cached, kind_files, kubernetes, kubernetes_version, system

NODE = HERE / "node"
# What ./node calls its network's image, and what kind's settings of containerd call the first process of a pod.
OUR_NAMES = {"kubernetes": "drainspec/kubernetes:node", "pause": "registry.k8s.io/pause:3.10"}


def node_system() -> Path:
    """Also what the Docker of our own is started from."""
    return system("debian-node", NODE_PACKAGES)


def name_of_node_image() -> str:
    return f"drainspec/node:{kubernetes_version()}"


def archive_of_node_image() -> Path:
    """The image as `docker load` takes it."""
    debian, programs = node_system(), kubernetes()
    inputs = digest(
        debian.name, programs.name, KIND, *sorted(path for path in NODE.iterdir() if path.is_file())
    )

    def make(archive: Path) -> None:
        context = CACHE / "node-context-unfinished"
        with step("the node image"), builder(debian) as docker:
            remove(context)
            prepare(context, programs)
            import_system(docker, debian)
            build(docker, context, "kubernetes", *names_of("kubernetes", programs))
            build(docker, context, "pause", *names_of("pause", programs))
            save(
                docker,
                context / "images/kubernetes.tar",
                *names_of("kubernetes", programs),
                *names_of("pause", programs),
            )
            build(docker, context, "node", name_of_node_image())
            save(docker, archive, name_of_node_image())
            remove(context)

    return cached("node-image", inputs, make)


def prepare(context: Path, programs: Path) -> None:
    shutil.copytree(kind_files(), context / "kind")
    for folder in [context, *(path for path in context.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)  # Go keeps its modules read-only, and this goes away again
    for program in ("kube", "pause"):
        shutil.copy2(programs / program, context)
    for file in ("Dockerfile", "pick-programs", "import-images.conf"):
        shutil.copy2(NODE / file, context)
    (context / "manifests").mkdir()
    for file in NODE.glob("default-*.yaml"):
        shutil.copy2(file, context / "manifests")
    (context / "images").mkdir()


def import_system(docker: InABox, debian: Path) -> None:
    """But for Docker itself, of which a node has no need."""
    files = (debian / "var/lib/dpkg/info/docker.io.list").read_text().split()
    unwanted = [f"--exclude=.{file}" for file in files if not (debian / file[1:]).is_dir()]
    piped(
        mortal("tar", "--create", "--directory", debian, "--numeric-owner", *unwanted, "."),
        docker.command("docker", "import", "-", "drainspec/debian:node"),
    )


def names_of(program: str, programs: Path) -> list[str]:
    """kubeadm says by which names it will ask for its images."""
    listed = output(
        mortal(
            programs / "kube",
            "kubeadm",
            "config",
            "images",
            "list",
            "--kubernetes-version",
            kubernetes_version(),
        )
    )
    if program == "pause":
        asked_for = [name for name in listed.split() if "/pause:" in name]
    else:
        asked_for = [name for name in listed.split() if "/kube-" in name or "/etcd:" in name]
    return [OUR_NAMES[program], *asked_for]


def build(docker: InABox, context: Path, target: str, *names: str) -> None:
    arguments = {"SYSTEM": "drainspec/debian:node", "VERSION": kubernetes_version()}
    words = [word for item in arguments.items() for word in ("--build-arg", "=".join(item))]
    tags = [word for name in dict.fromkeys(names) for word in ("--tag", name)]
    command = docker.command(
        "env",
        "DOCKER_BUILDKIT=1",
        "docker",
        "build",
        "--progress",
        "plain",
        "--network",
        "none",
        "--target",
        target,
        *words,
        *tags,
        context,
    )
    logged(f"image-{target}", command)


def save(docker: InABox, archive: Path, *names: str) -> None:
    logged("docker-save", docker.command("docker", "save", "--output", archive, *dict.fromkeys(names)))


def load(docker: InABox, archive: Path) -> None:
    logged("docker-load", docker.command("docker", "load", "--input", archive))
