"""What the parts of the cluster need of this machine: folders, programs, packages, a lock, and one way to run things."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("CLUSTER_CACHE") or ROOT / "target/cluster").resolve()
LOGS = CACHE / "logs"

# Two checkouts on one machine have two clusters: nothing of theirs may share a name.
NAME = "drainspec-" + hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:6]

LINUX = sys.platform == "linux"


class Failure(Exception):
    """Something that the reader can do something about; printed without a traceback."""


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is being done, and when it is done how long it took."""
    print(f"{what} …", end=" ", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - began:.1f} s", flush=True)


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """One at a time: whatever changes the cluster or the cache. The kernel lets go of it when the process is killed."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        lock = open(CACHE / "lock", "w")  # noqa: SIM115
    except OSError as error:
        raise Failure(
            f"{error}. {CACHE} is for whoever called this first: be that user, or set CLUSTER_CACHE."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another call that changes the cluster …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- running ---------------------------------------------------------------------------------------------------


def mortal(*command: str | Path) -> list[str]:
    """The command, killed by the kernel when this process dies: also by kill -9, which leaves no time to clean up."""
    words = [str(word) for word in command]
    return ["setpriv", "--pdeathsig", "KILL", *words] if shutil.which("setpriv") else words


def enclosed(*command: str | Path) -> list[str]:
    """The same with all that it starts and mounts: it gets process and mount tables of its own. Needs root."""
    return mortal("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command)


def logged(name: str, command: list[str], **options) -> None:
    """Runs the command with its output in a file. Where it fails, the end of that file is the message."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{name}.log"
    with open(path, "w") as log:
        options.setdefault("stdin", subprocess.DEVNULL)
        status = subprocess.run(
            command, check=False, stdout=log, stderr=subprocess.STDOUT, **options
        ).returncode
    if status != 0:
        last = path.read_text(errors="replace").splitlines()[-15:]
        raise Failure(
            "\n    ".join([f"{name} ended with {status}; its last lines, all of them in {path}:", *last])
        )


def output(command: list[str], **options) -> str:
    """What the command prints. Where it fails, what it said about that is the message."""
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-5:]
        raise Failure("\n    ".join([f"{' '.join(command)}: ended with {done.returncode} and said:", *said]))
    return done.stdout.strip()


def succeeds(command: list[str], **options) -> bool:
    options.setdefault("stdin", subprocess.DEVNULL)
    try:
        return subprocess.run(command, check=False, capture_output=True, **options).returncode == 0
    except FileNotFoundError:
        return False


def piped(producer: list[str], consumer: list[str]) -> None:
    """producer | consumer, where a failure of either is one."""
    first = subprocess.Popen(producer, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    done = subprocess.run(consumer, check=False, stdin=first.stdout, capture_output=True, text=True)
    first.stdout.close()
    for command, status in ((producer, first.wait()), (consumer, done.returncode)):
        if status != 0:
            raise Failure(f"{' '.join(command)}: ended with {status}\n    {done.stderr.strip()}")


def remove(path: Path) -> None:
    # Not shutil.rmtree: what is mounted below belongs to somebody else, whom we would find out too late.
    subprocess.run(["rm", "-rf", *(["--one-file-system"] if LINUX else []), path], check=True)


def wait_for(what: str, seconds: float, is_so, hint: str = "") -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds:.0f} s{hint and '; ' + hint}")
        time.sleep(0.2)


# --- what is needed ----------------------------------------------------------------------------------------------


def need_root(why: str) -> None:
    if not LINUX:
        raise Failure(
            f"{why}: that needs Linux. Start Docker, and a registry that it can pull from, for a cluster here."
        )
    if os.geteuid() != 0:
        raise Failure(
            f"{why}: that needs root. Call this with sudo, or start Docker where images can be pulled."
        )


def need_programs(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            raise Failure(
                f"{program} is not in PATH ({os.environ.get('PATH', '')}); scripts/setup.sh installs what is missing"
            )


def need_space(gigabytes: float) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free / 1e9
    if free < gigabytes:
        raise Failure(
            f"{CACHE}: {free:.1f} GB free, {gigabytes:g} are needed. Make room there, "
            "or set CLUSTER_CACHE to a folder that has it."
        )


def need_package(program: str) -> None:
    """A package with one program, named like it, that starts no service."""
    if shutil.which(program):
        return
    if not shutil.which("apt-get"):
        raise Failure(f"{program} is missing, and there is no apt-get to install it: install it by hand")
    with step(f"apt-get install {program}, which is missing"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        logged("apt-get-update", mortal("apt-get", "update", "-q"), env=environment)
        install = mortal("apt-get", "install", "-y", "-q", "--no-install-recommends", program)
        logged("apt-get-install", install, env=environment)


def debian() -> tuple[str, str]:
    """The release that this machine has, and the mirror from which apt itself gets it."""
    words = Path("/etc/os-release").read_text().splitlines()
    release = next(
        (word.split("=")[1].strip('"') for word in words if word.startswith("VERSION_CODENAME=")), ""
    )
    # The release as apt's sources have it: its code name is known only after an update.
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    for line in output(command).splitlines() if shutil.which("apt-get") else []:
        name, mirror = line.split()
        if name == release:
            return release, mirror
    raise Failure(
        f"apt's sources name no mirror of the release {release or 'of this machine'!r}, from which a node is made: "
        "look at /etc/apt/sources.list and /etc/apt/sources.list.d."
    )


def digest(*parts: Path | str) -> str:
    """What a result depends on, in a word: texts, and files by what is in them."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]
