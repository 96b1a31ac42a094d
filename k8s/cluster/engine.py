"""Docker: the machine's own, or one in namespaces of its own where there is none to be had."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from machine import (
    CACHE,
    HERE,
    LINUX,
    LOGS,
    NAME,
    ROOT,
    Failure,
    enclosed,
    mortal,
    need_root,
    remove,
    succeeds,
    wait_for,
)

# How a process of ours is told from any other, whatever became of the files that we kept.
INIT = str(HERE / "engine-init")


class OfTheMachine:
    """Whatever `docker` speaks to here. The network is the machine's, and nothing has to be started or ended."""

    own = False

    def command(self, *words: str | Path) -> list[str]:
        return mortal(*words)

    def beside(self, *words: str) -> list[str]:
        return [*words]

    @staticmethod
    def is_there() -> bool:
        return succeeds(["docker", "info"])


class InABox:
    """Docker that is started here, from a Debian in a folder, and ends with all that it has when it is killed."""

    own = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = CACHE / name

    def pid(self) -> int | None:
        """Its first process, as the machine counts."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it may be ending
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if INIT in words and words[words.index(INIT) + 1] == self.name and is_first(process):
                    return int(process.name)
        return None

    def command(self, *words: str | Path) -> list[str]:
        """Runs inside: with its files, its network, and the end of its processes."""
        # Which Docker is spoken to from here is of no account in there.
        clean = ["env", "--unset=DOCKER_HOST", "--unset=DOCKER_CONTEXT", "--unset=DOCKER_CONFIG"]
        return mortal("nsenter", "--target", str(self._running()), "--all", "--root", "--wd", *clean, *words)

    def beside(self, *words: str) -> list[str]:
        """Runs here, but in the network in which the nodes have their addresses."""
        return ["nsenter", "--target", str(self._running()), "--net", "--", *words]

    def _running(self) -> int:
        pid = self.pid()
        if pid is None:
            raise Failure("The cluster is not up: start it with `k8s/cluster/cluster up`.")
        return pid

    def start(self, system: Path, network: str, programs: dict[str, Path], outlives_us: bool) -> None:
        for folder in ("upper", "work", "root", "docker"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        for place, program in {
            "sbin/runc-without-sys-resource": HERE / "runc-without-sys-resource",
            **programs,
        }.items():
            inside = self.home / "upper/usr/local" / place
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(program, inside)
        command = enclosed(INIT, self.name, system, self.home, network, ROOT, CACHE)
        unshare = command.index("unshare")
        command.insert(unshare + 1, "--ipc")
        if network == "own":
            command.insert(unshare + 1, "--net")
        if outlives_us:
            command = command[unshare:]
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / f"{self.name}.log"
        with open(log, "w") as sink:
            # A session of its own: Ctrl-C is for us, who then end it in order.
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        wait_for("Docker answers", 60, self._answers, f"its log is {log}")

    def _answers(self) -> bool:
        return self.pid() is not None and succeeds(self.command("docker", "info"))

    def end(self, keep_data: bool = False) -> None:
        """Safe to repeat, and whatever of it is left."""
        while (pid := self.pid()) is not None:
            need_root(f"To end {self.name}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_for("Docker ends", 30, lambda gone=pid: not Path(f"/proc/{gone}").exists())
        for group in control_groups():
            remove_groups(group / self.name)
        for folder in ("upper", "work", "root") if keep_data else ("",):
            remove(self.home / folder)


@contextlib.contextmanager
def builder(system: Path) -> Iterator[InABox]:
    """Docker in the machine's own network, so that builds reach the registries of packages as the machine does. Its
    layers stay in the cache."""
    box = InABox(f"{NAME}-builder")
    box.end(keep_data=True)
    try:
        box.start(system, "host", {}, outlives_us=False)
        yield box
    finally:
        box.end(keep_data=True)


def is_first(process: Path) -> bool:
    """Whether it is the first process of a table of processes below ours."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return len(numbers) > 1 and numbers[-1] == "1"
    return False


def control_groups() -> list[Path]:
    if not LINUX:
        return []
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def remove_groups(top: Path) -> None:
    """The kernel takes a moment until a group whose processes were killed is empty."""
    deadline = time.monotonic() + 10
    while top.exists():
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if time.monotonic() > deadline:
            raise Failure(f"{top}: this control group is still in use; `cat {top}/cgroup.procs` tells by whom")
        if top.exists():
            time.sleep(0.1)
