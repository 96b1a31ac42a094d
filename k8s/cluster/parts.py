"""What a cluster is built from, where it has to be built: each part once, in the cache, under a name that changes with
whatever it is made from."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from machine import (
    CACHE,
    HERE,
    ROOT,
    Failure,
    debian,
    digest,
    enclosed,
    logged,
    mortal,
    need_package,
    need_programs,
    need_root,
    need_space,
    output,
    remove,
    step,
)

# Its releases name the node image that they were tested with: both change together.
KIND = "v0.33.0"
KIND_MODULE = f"sigs.k8s.io/kind@{KIND}"
NODE_IMAGE = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"

TOOLS = ROOT / "target/tools"
KUBE = HERE / "kube"

# What a node is made of, and the Docker that runs nodes: Debian's, of the release that this machine has.
NODE_PACKAGES = (
    "systemd systemd-sysv containerd runc containernetworking-plugins conntrack iptables nftables iproute2 ethtool kmod "
    "jq procps ca-certificates docker.io"
)
# What servers run on that are more than one file.
SERVER_PACKAGES = "python3 libstdc++6 ca-certificates"

STATIC = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}


def cached(name: str, inputs: str, make: Callable[[Path], None]) -> Path:
    """CACHE/NAME-INPUTS, made by `make` at another place first: what is there is whole. Older ones are removed."""
    path = CACHE / f"{name}-{inputs}"
    if not path.exists():
        for old in CACHE.glob(f"{name}-*"):
            remove(old)
        unfinished = CACHE / f"{name}-unfinished"
        make(unfinished)
        unfinished.rename(path)
    return path


def kind() -> Path:
    """The command, as scripts/setup.sh keeps tools: by version, and a link to the one that is in use."""
    built = TOOLS / f"kind-{KIND}"
    if not built.exists():
        need_programs("go")
        with step(f"kind {KIND}, from its Go module"):
            new = TOOLS / "kind-unfinished"
            logged(
                "kind",
                mortal("go", "install", "-trimpath", KIND_MODULE),
                env=os.environ | {"CGO_ENABLED": "0", "GOBIN": str(new)},
            )
            (new / "kind").replace(built)
            new.rmdir()
    link = TOOLS / "kind"
    if not link.is_symlink() or os.readlink(link) != built.name:
        link.unlink(missing_ok=True)
        link.symlink_to(built.name)
    return built


def kind_files() -> Path:
    """What kind's module has for its nodes: the entry point, units and settings."""
    module = json.loads(output(mortal("go", "mod", "download", "-json", KIND_MODULE)))
    return Path(module["Dir"]) / "images/base/files"


def kubernetes_version() -> str:
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (KUBE / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise Failure(f"{KUBE / 'go.mod'} requires no k8s.io/kubernetes")
    return found[1]


def kubernetes() -> Path:
    """A folder with `kube`, which is every program of Kubernetes, and `pause`."""
    version = kubernetes_version()
    sources = sorted([*KUBE.glob("*.go"), KUBE / "pause/main.go", KUBE / "go.mod", KUBE / "go.sum"])

    def make(folder: Path) -> None:
        need_programs("go")
        need_space(8)
        major, minor = version.removeprefix("v").split(".")[:2]
        package = "k8s.io/component-base/version"
        said = f"-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        command = ["go", "build", "-trimpath", "-ldflags", f"-s -w {said}", "-o", f"{folder}/", ".", "./pause"]
        with step(f"Kubernetes {version}, from its Go modules (long, when Go has none of it in its cache)"):
            logged("kubernetes", mortal(*command), cwd=KUBE, env=STATIC)

    return cached("kubernetes", digest(version, *sources), make)


def system(name: str, packages: str) -> Path:
    """A folder with a Debian in it: the release that this machine has, from where apt gets it."""
    release, mirror = debian()

    def make(folder: Path) -> None:
        need_root(f"{folder.name}, a Debian in a folder")
        need_space(4)
        need_package("debootstrap")
        remove(folder)
        # What is interrupted is thrown away: nothing has to be on the disk after each file.
        hasty = folder / "etc/dpkg/dpkg.cfg.d/hasty"
        hasty.parent.mkdir(parents=True)
        hasty.write_text("force-unsafe-io\n")
        include = "--include=" + ",".join(packages.split())
        with step(f"Debian {release} for {name}, by debootstrap"):
            logged(name, enclosed("debootstrap", "--variant=minbase", include, release, folder, mirror))
            hasty.unlink()
            for waste in (
                "var/cache/apt/archives",
                "var/lib/apt/lists",
                "usr/share/doc",
                "usr/share/man",
                "usr/share/locale",
            ):
                shutil.rmtree(folder / waste)
                (folder / waste).mkdir()

    return cached(name, digest(release, packages), make)
