"""The images of the servers, by their own Dockerfiles, and how they get onto the nodes."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from cluster import Engine, environment, find, has_registry, nodes
from engine import InABox, builder
from machine import (
    CACHE,
    HERE,
    NAME,
    ROOT,
    Failure,
    exclusive,
    logged,
    mortal,
    need_programs,
    output,
    piped,
    remove,
    step,
    succeeds,
)
from node_image import node_system
from parts import SERVER_PACKAGES, system

LANGUAGES = ("python", "node", "go", "rust")
SERVERS = [*LANGUAGES, *(f"naive/{language}" for language in LANGUAGES)]


def images(servers: list[str]) -> dict[str, str]:
    """Builds and loads them; the image of each. Its tag says what is in it, so that no node ever runs another one."""
    for server in servers:
        if server not in SERVERS:
            raise Failure(f"{server}: there is no image of such a server, but of {', '.join(SERVERS)}")
    wanted = servers or SERVERS
    with exclusive():
        engine = find()
        if has_registry():
            names = {server: build_server(engine, server, {}) for server in wanted}
        else:
            with builder(node_system()) as docker:
                names = {s: build_server(docker, s, bases(docker, s.split("/")[-1])) for s in wanted}
                hand_over(docker, engine, names.values())
        with step("images onto the workers"):
            workers = [node for node in nodes(engine) if "-worker" in node]
            path = f"PATH={environment(engine)['PATH']}:/usr/local/bin"
            load = [
                "kind",
                "load",
                "docker-image",
                *names.values(),
                "--name",
                NAME,
                "--nodes",
                ",".join(workers),
            ]
            logged("kind-load", engine.command("env", path, *load))
    return names


def build_server(docker: Engine, server: str, bases: dict[str, str]) -> str:
    language = server.split("/")[-1]
    recipe = ROOT / "servers" / language / "Dockerfile"
    repository = "drainspec/" + server.replace("/", "-")
    arguments = [word for item in bases.items() for word in ("--build-arg", "=".join(item))]
    if bases:
        arguments += ["--network", "host"]
    with step(f"image of {server}"):
        run_build(
            docker,
            f"image-{server.replace('/', '-')}",
            *arguments,
            "--file",
            recipe,
            "--tag",
            repository,
            ROOT / "servers" / server,
        )
        identity = output(docker.command("docker", "image", "inspect", "--format", "{{.Id}}", repository))
        name = f"{repository}:{identity.removeprefix('sha256:')[:12]}"
        others = output(
            docker.command("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", repository)
        ).split()
        output(docker.command("docker", "tag", repository, name))
        # Also the name without a tag: Kubernetes would take it for :latest, and pull it.
        output(docker.command("docker", "rmi", *(other for other in others if other != name)))
    return name


def hand_over(builder: InABox, engine: Engine, names: Iterable[str]) -> None:
    """All at once: what they share, such as an interpreter, goes over once."""
    missing = [name for name in names if not succeeds(engine.command("docker", "image", "inspect", name))]
    if missing:
        with step("images into the cluster's Docker"):
            piped(builder.command("docker", "save", *missing), engine.command("docker", "load"))


def run_build(docker: Engine, log: str, *words: str | Path) -> None:
    logged(log, docker.command("env", "DOCKER_BUILDKIT=1", "docker", "build", "--progress", "plain", *words))


# --- bases, where there is no registry -----------------------------------------------------------------------------


def bases(docker: InABox, language: str) -> dict[str, str]:
    """The arguments of a server's Dockerfile."""
    debian = system("debian-server", SERVER_PACKAGES)
    from_debian = imported(docker, "debian", debian.name.split("-")[-1], ["--directory", debian, "."])
    toolchain = {"python": lambda _: None, "node": node, "go": go, "rust": rust}[language](docker)
    arguments = {
        "BUILD_BASE": base(docker, f"build-{language}", from_debian, toolchain),
        **registries(language),
    }
    if language in ("python", "node"):
        arguments["BASE"] = base(docker, language, from_debian, toolchain)
    return arguments


def base(docker: InABox, target: str, debian: str, toolchain: str | None) -> str:
    name = f"drainspec/base-{target}:{debian.split(':')[1]}"
    context = CACHE / "bases-context-unfinished"
    remove(context)
    context.mkdir()
    shutil.copy(HERE / "bases/Dockerfile", context)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)
    arguments = ["--build-arg", f"SYSTEM={debian}", "--build-arg", f"TOOLCHAIN={toolchain or 'scratch'}"]
    arguments += ["--network", "host", "--target", target, "--tag", name]
    with step(f"base of images, {target}"):
        run_build(docker, f"base-{target}", *arguments, context)
    remove(context)
    return name


def node(docker: InABox) -> str:
    need_programs("node", "npm")
    version, program = output(["node", "--print", "process.version + ' ' + process.execPath"]).split()
    packages = Path(output(["npm", "root", "--global"]))
    return imported(
        docker,
        "node",
        version,
        ["--transform", "s,^node$,bin/node,", "--transform", "s,^npm,lib/node_modules/npm,S"]
        + ["--directory", Path(program).parent, "node", "--directory", packages, "npm"],
    )


def go(docker: InABox) -> str:
    need_programs("go")
    version, root = output(["go", "env", "GOVERSION", "GOROOT"], cwd=ROOT / "servers/go").split()
    return imported(docker, "go", version, ["--directory", root, "."])


def rust(docker: InABox) -> str:
    need_programs("rustc")
    root = Path(output(["rustc", "--print", "sysroot"]))
    if root == Path("/usr"):
        raise Failure(
            "Rust is part of the system here; to build images without a registry it has to be one of rustup's"
        )
    version = output(["rustc", "--version"]).split()[1]
    return imported(docker, "rust", version, ["--exclude=./share", "--directory", root, "."])


def registries(language: str) -> dict[str, str]:
    """Where this machine gets packages from, unless that is where the tools ask anyway."""
    match language:
        case "go":
            return {"GOPROXY": output(["go", "env", "GOPROXY"])}
        case "node":
            return {"NPM_CONFIG_REGISTRY": output(["npm", "config", "get", "registry"])}
        case "python":
            configured = output(["python3", "-m", "pip", "config", "list"]).splitlines()
            indexes = [
                line.split("=", 1)[1].strip("'")
                for line in configured
                if line.split("=")[0].endswith("index-url")
            ]
            return {"PIP_INDEX_URL": indexes[0]} if indexes else {}
    return {}


def imported(docker: InABox, what: str, version: str, files: list[str | Path]) -> str:
    """An image with these files, as `tar` is to be told of them."""
    name = f"drainspec/only-{what}:{version}"
    if not succeeds(docker.command("docker", "image", "inspect", name)):
        with step(f"{what} {version}, as an image"):
            archive = mortal("tar", "--create", "--numeric-owner", *files)
            piped(archive, docker.command("docker", "import", "-", name))
    return name
