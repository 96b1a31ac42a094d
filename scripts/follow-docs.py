#!/usr/bin/env python3
"""Does what the pages docs/adding-a-server.md, -scenario.md and -topology.md say, with the code that stands there.

    python3 scripts/follow-docs.py [DRAINSPEC]

DRAINSPEC is the program that plays the server (default: target/release/drainspec), and lies beside what it was built
from. Everything happens in a temporary folder below target, into which the harness is copied for the scenario; what it
is built from is not compiled again.
Ends with 1, and says what, where a page is not true.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    drainspec = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/drainspec").resolve()
    (ROOT / "target").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "target", prefix="docs-") as folder:
        add_server(drainspec, Path(folder))
        add_topology(drainspec, Path(folder))
        add_scenario(drainspec.parent, Path(folder))
    print("all three pages are true")


def add_server(drainspec: Path, folder: Path) -> None:
    page = (ROOT / "docs" / "adding-a-server.md").read_text()
    # `run` stands in both: the copy of a server that is said to be in this folder.
    path = told(r"in `(servers/[a-z/-]+)/`\. The\s+command", page)
    server = folder / path
    server.mkdir(parents=True)
    (server.parent.parent / "CONTRACT.md").touch()
    for language, name in (("js", "// main.js"), ("toml", "# server.toml")):
        (server / name.split(" ")[1]).write_text(block(page, language, name))
    name, text = told(r"\(and a `([a-z.]+)` with `(.*)`\)", page)
    (server / name).write_text(text)

    name = path.removeprefix("servers/")
    matrix = told(rf"`cargo run --release -- (matrix --server {name})`", page).split(" ")
    # One scenario of all: some that this server fails take their time.
    scenario = told(r"with\s+`(--scenario [a-z-]+)` one of them", page).split(" ")
    matrix = [drainspec, *matrix, *scenario, "--servers", folder / "servers", "--out", folder / "out"]
    shown = run(matrix, wants=1).stdout
    for line in simple(block(page, "", f"{name} ·")).splitlines():
        check(line in simple(shown), f"the page says {line.strip()!r}, and this is what comes:\n{shown}")

    (server / "known.toml").write_text(block(page, "toml", "[[known]]"))
    shown = run(matrix, wants=0).stdout
    check("1 known failure" in shown, f"it is not said to be known:\n{shown}")


def add_topology(drainspec: Path, folder: Path) -> None:
    page = (ROOT / "docs" / "adding-a-topology.md").read_text()
    path = told(r"Two files in\s+`(lb-configs/[a-z/-]+)/`", page)
    topology = folder / path
    topology.mkdir(parents=True)
    for language, name in (("nginx", "# nginx.conf"), ("toml", "# topology.toml")):
        (topology / name.split(" ")[1]).write_text(block(page, language, name))

    name = path.removeprefix("lb-configs/")
    servers = ["--servers", ROOT / "servers"]
    matrix = told(rf"`cargo run --release -- (matrix --topology {name} --server go)`", page).split(" ")
    # One scenario of all: the reloads take their time.
    matrix = [drainspec, *matrix, "--scenario", "rolling-restart", *servers]
    shown = run([*matrix, "--topologies", folder / "lb-configs", "--out", folder / "fleet"], wants=0).stdout
    check(name in shown and "all as expected" in shown, f"this is what comes of it:\n{shown}")
    # The others look for the folder beside that of the servers.
    (folder / "servers").mkdir(exist_ok=True)
    (folder / "servers" / "CONTRACT.md").touch()
    beside = ["--servers", folder / "servers"]
    check(name in run([drainspec, "list", "topologies", *beside], wants=0).stdout, f"list does not know {name}")
    check(
        "least_conn" in run([drainspec, "explain", name, *beside], wants=0).stdout,
        f"explain does not show {name}",
    )


def add_scenario(built: Path, folder: Path) -> None:
    page = (ROOT / "docs" / "adding-a-scenario.md").read_text()
    copy = folder / "copy"
    copy.mkdir()
    for name in ("Cargo.toml", "Cargo.lock"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("harness", "docs"):
        shutil.copytree(ROOT / name, copy / name)
    file = copy / "docs" / told(r"go into\s+\[`[a-z/.]+`\]\(([^)]+)\)", page)
    file = file.resolve()
    entry, function = block(page, "rust", "Scenario {"), block(page, "rust", "async fn")
    source = file.read_text()
    table = re.compile(r"(const SCENARIOS: &\[Scenario\] = &\[\n.*?)(^\];)", re.DOTALL | re.MULTILINE)
    source, found = table.subn(lambda match: f"{match[1]}{entry}{match[2]}", source, count=1)
    check(found == 1, f"{file.name} has no SCENARIOS")
    file.write_text(f"{source}\n{function}")

    target = copy / "target" / built.name
    for name in ("deps", "build", ".fingerprint"):
        # Links, and so quick. What is built of the copy has names of its own.
        shutil.copytree(built / name, target / name, copy_function=os.link)
    release = ["--release"] if built.name == "release" else []
    run(["cargo", "build", "--quiet", "--locked", *release], wants=0, cwd=copy)
    drainspec = target / "drainspec"

    slug = told(r'slug: "([a-z-]+)"', entry)
    check(slug in run([drainspec, "list", "scenarios"], wants=0).stdout, f"list does not know {slug}")
    check("Judged by" in run([drainspec, "explain", slug], wants=0).stdout, f"explain does not know {slug}")
    servers = ["--servers", ROOT / "servers"]
    run([drainspec, "docs", copy / "docs"], wants=0, cwd=ROOT)
    check(slug in (copy / "docs" / "scenarios.md").read_text(), f"scenarios.md does not have {slug}")
    matrix = told(rf"`cargo run -- (matrix --scenario {slug})`", page).split(" ")
    run([drainspec, *matrix, "--server", "python", *servers, "--out", copy / "out"], wants=0)


def told(pattern: str, page: str) -> str | tuple[str, ...]:
    """What a page says in this place."""
    match = re.search(pattern, page)
    check(match is not None, f"a page no longer says {pattern!r}")
    return match[1] if len(match.groups()) == 1 else match.groups()


def block(page: str, language: str, begins: str) -> str:
    """The block of code that begins so; the name of a file in its first line belongs to it."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if match[1].startswith(begins):
            return match[1]
    fail(f"a page has no block of {language or 'text'} that begins with {begins!r}")


def simple(text: str) -> str:
    """What differs from run to run is left out."""
    return re.sub(r" after \d+\.\d+ m?s,", " after … s,", text)


def run(command: list, wants: int, cwd: Path | None = None) -> subprocess.CompletedProcess:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    words = " ".join(str(part) for part in command)
    check(done.returncode == wants, f"`{words}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def check(holds: bool, fault: str) -> None:
    if not holds:
        fail(fault)


def fail(fault: str) -> None:
    sys.exit(f"follow-docs: {fault}")


if __name__ == "__main__":
    main()
