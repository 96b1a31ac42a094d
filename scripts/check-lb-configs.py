#!/usr/bin/env python3
"""Holds the configurations of load balancers against the programs that read them, and against what is said of them.

    .venv/bin/python scripts/check-lb-configs.py

- `nginx -t`, `haproxy -c` and an HCL parser accept each file as it stands; where Terraform is at hand, so does
  `terraform fmt`, and in a folder where `terraform init` was run, `terraform validate`.
- topology.toml has its keys, the addresses that it names are in the file, and its budget has the numbers of the file.
- In what is recommended these numbers nest; what is a warning says in known.toml what it loses.
- The table of lb-configs/README.md names every folder.

Prints file, line and fault of everything that does not hold, and ends with 1.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import hcl2
from lark.exceptions import LarkError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "lb-configs"
README = FOLDER / "README.md"

PROXIES = {"nginx", "haproxy"}  # programs that a run starts; an ALB is a model, and has no addresses
KINDS = {"recommended", "warning"}
WITHDRAWALS = {"none", "reload", "readiness", "runtime-api", "agent", "deregister", "deregister-and-stop"}
RELOADS = {"lossless", "races"}
KEYS = {"kind", "summary", "file", "withdraw", "budget"}
KEYS_OF_PROXY = {"listen", "instances", "reload"}
OPTIONAL = {"others", "agent"}
BUDGET = {"lame_duck", "longest_request", "keep_alive"}

# Where a number of the budget stands in the file. One that is a default of the program stands nowhere.
DIRECTIVES = {
    "nginx": {
        "keep_alive": r"^ {8}keepalive_timeout (\d+)s?;",
        "client_keep_alive": r"^ {4}keepalive_timeout (\d+)s?;",
        "read_timeout": r"proxy_read_timeout (\d+)s;",
        "worker_shutdown_timeout": r"^worker_shutdown_timeout (\d+)s;",
    },
    "haproxy": {
        "client_keep_alive": r"timeout http-keep-alive (\d+)s",
        "timeout_server": r"timeout server (\d+)s",
        "timeout_check": r"timeout check (\d+)s",
        "hard_stop_after": r"hard-stop-after (\d+)s",
        "inter": r"default-server .*\binter (\d+)s",
        "fall": r"default-server .*\bfall (\d+)",
        "rise": r"default-server .*\brise (\d+)",
    },
    "aws-alb": {
        "keep_alive": r"idle_timeout += +(\d+)",
        "idle_timeout": r"idle_timeout += +(\d+)",
        "deregistration_delay": r"deregistration_delay += +(\d+)",
        "interval": r"interval += +(\d+)",
        "healthy_threshold": r"\bhealthy_threshold += +(\d+)",
        "unhealthy_threshold": r"unhealthy_threshold += +(\d+)",
    },
}

# Each has to be longer than the longest request, or it cuts one.
OUTLAST_REQUEST = {
    "read_timeout",
    "worker_shutdown_timeout",
    "timeout_server",
    "hard_stop_after",
    "deregistration_delay",
    "idle_timeout",
}


def main() -> int:
    folders = sorted(path.parent for path in FOLDER.glob("*/*/topology.toml"))
    faults = [fault for folder in folders for fault in check_folder(folder)]
    for folder in sorted(path for path in FOLDER.glob("*/*") if path.is_dir() and path not in folders):
        faults.append(f"{short(folder)}: has no topology.toml")
    faults += check_readme(folders)
    for fault in faults:
        print(fault)
    print(f"{len(folders)} configurations, {len(faults)} faults")
    return 1 if faults or not folders else 0


def check_folder(folder: Path) -> list[str]:
    path = folder / "topology.toml"
    try:
        topology = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        return [f"{short(path)}: {error}"]
    faults = check_keys(path, topology)
    if faults:
        return faults  # whatever comes next reads them
    file = folder / topology["file"]
    if not file.is_file():
        return [f"{short(path)}:{line_of(path, 'file')}: {topology['file']}: there is no such file"]
    return (
        check_addresses(path, topology, file)
        + check_budget(path, topology, file)
        + check_known(folder, topology["kind"])
        + CHECKS[folder.parent.name](file)
    )


# --- topology.toml and known.toml ------------------------------------------------------------------------------


def check_keys(path: Path, topology: dict) -> list[str]:
    kind = path.parent.parent.name
    if kind not in CHECKS:
        return [f"{short(path)}: no such balancer: {kind}; known are {', '.join(sorted(CHECKS))}"]
    needed = KEYS | (KEYS_OF_PROXY if kind in PROXIES else set())
    faults = [f"{short(path)}: `{key}` is missing" for key in sorted(needed - topology.keys())]
    faults += [
        f"{short(path)}:{line_of(path, key)}: `{key}` is not known here; known are {', '.join(sorted(needed | OPTIONAL))}"
        for key in sorted(topology.keys() - needed - OPTIONAL)
    ]
    for key, allowed in (("kind", KINDS), ("withdraw", WITHDRAWALS), ("reload", RELOADS)):
        if key in topology and topology[key] not in allowed:
            known = ", ".join(sorted(allowed))
            faults.append(
                f"{short(path)}:{line_of(path, key)}: {key} = {topology[key]!r}: expected one of {known}"
            )
    budget = topology.get("budget", {})
    faults += [f"{short(path)}: [budget] has no `{key}`" for key in sorted(BUDGET - budget.keys())]
    faults += [
        f"{short(path)}:{line_of(path, key)}: {key} = {value!r}: expected a number of seconds"
        for key, value in budget.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0
    ]
    return faults


def check_addresses(path: Path, topology: dict, file: Path) -> list[str]:
    """A run puts its own addresses in the place of these: one that is not in the file would stay as it is."""
    written = [topology["listen"], *topology["instances"]] if "listen" in topology else []
    text = file.read_text()
    return [
        f"{short(path)}: {address} is not in {file.name}: name the addresses as they stand there"
        for address in [*written, *topology.get("others", [])]
        if not re.search(rf"(?<![\d.]){re.escape(address)}(?!\d)", text)
    ]


def check_budget(path: Path, topology: dict, file: Path) -> list[str]:
    budget, faults = topology["budget"], []
    for key, pattern in DIRECTIVES[path.parent.parent.name].items():
        found = re.search(pattern, file.read_text(), re.MULTILINE)
        if found and key in budget and float(found[1]) != budget[key]:
            row = file.read_text()[: found.start(1)].count("\n") + 1
            faults.append(f"{short(file)}:{row}: {found[1]}, but topology.toml says {key} = {budget[key]}")
    if topology["kind"] == "warning":
        return faults
    longest = budget["longest_request"]
    faults += [
        f"{short(path)}:{line_of(path, key)}: {key} = {budget[key]} is not longer than longest_request = {longest}, and cuts"
        for key in sorted(OUTLAST_REQUEST & budget.keys())
        if budget[key] <= longest
    ]
    if topology["withdraw"] in {"readiness", "agent"}:
        probes = (
            budget["agent_inter"]
            if topology["withdraw"] == "agent"
            else budget.get("fall", 1) * budget["inter"]
        )
        noticed = probes + budget["timeout_check"]
        if budget["lame_duck"] <= noticed:
            row = line_of(path, "lame_duck")
            faults.append(
                f"{short(path)}:{row}: lame_duck is not longer than the {noticed} s after which it is noticed"
            )
    if "grace" in budget and budget["grace"] <= budget["lame_duck"] + longest:
        faults.append(
            f"{short(path)}:{line_of(path, 'grace')}: grace is not longer than lame_duck + longest_request"
        )
    return faults


def check_known(folder: Path, kind: str) -> list[str]:
    path = folder / "known.toml"
    if kind == "recommended" and not path.exists():
        return []
    if not path.exists():
        return [f"{short(folder)}: a warning says in known.toml what it loses"]
    try:
        entries = tomllib.loads(path.read_text()).get("known", [])
    except tomllib.TOMLDecodeError as error:
        return [f"{short(path)}: {error}"]
    faults = [f"{short(path)}: has no [[known]]"] if not entries else []
    for entry in entries:
        pattern = entry.get("pattern", "")
        if kind == "recommended" and not pattern.startswith("balancer-reload/"):
            faults.append(
                f"{short(path)}: {pattern}: what is recommended loses nothing but in a reload: make it a warning"
            )
        if pattern.count("/") != 1 or not entry.get("reason"):
            faults.append(
                f"{short(path)}: {pattern or '[[known]]'}: needs a pattern `scenario/rule` and a reason"
            )
    return faults


# --- the balancers ---------------------------------------------------------------------------------------------


def check_nginx(file: Path) -> list[str]:
    # In a folder of its own: it creates those for temporary files, and its log.
    with tempfile.TemporaryDirectory() as prefix:
        shutil.copy(file, prefix)
        return run(
            file, ["nginx", "-e", "error.log", "-p", prefix, "-c", file.name, "-t"], r"\[(?:emerg|warn)\]"
        )


def check_haproxy(file: Path) -> list[str]:
    return run(
        file,
        ["haproxy", "-c", "-f", file.name],
        r"\[(?:ALERT|WARNING)\](?!.*[Ee]rrors? found|.*Error\(s\) found)",
    )


def check_alb(file: Path) -> list[str]:
    try:
        resources = [name.strip('"') for block in hcl2.loads(file.read_text())["resource"] for name in block]
    except LarkError as error:
        place = f"{getattr(error, 'line', '?')}:{getattr(error, 'column', '?')}"
        return [f"{short(file)}:{place}: not HCL: something else was expected here"]
    except KeyError:
        resources = []
    # A model reads these three, and would not know which of two to take.
    faults = [
        f"{short(file)}: expected one {name}, found {resources.count(name)}"
        for name in ("aws_lb", "aws_lb_target_group", "aws_lb_listener")
        if resources.count(name) != 1
    ]
    if shutil.which("terraform"):
        faults += run(file, ["terraform", "fmt", "-check", "-list=false", file.name], None)
        if (file.parent / ".terraform").exists():
            faults += run(file, ["terraform", "validate", "-no-color"], "Error:")
    return faults


CHECKS = {"nginx": check_nginx, "haproxy": check_haproxy, "aws-alb": check_alb}


def run(file: Path, command: list[str], complaint: str | None) -> list[str]:
    """What a program complains of in a file; warnings count, too."""
    if not shutil.which(command[0]):
        return [f"{short(file)}: not checked: {command[0]} is not in PATH; ./scripts/setup.sh installs it"]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    faults = []
    for line in output.splitlines():
        if complaint and re.search(complaint, line):
            row = re.search(re.escape(file.name) + r":(\d+)", line)
            faults.append(f"{short(file)}:{row[1] if row else '?'}: {line.strip()}")
    if done.returncode != 0 and not faults:
        way_out = "; `terraform fmt` puts it in order" if "fmt" in command else f": {output.strip()[-300:]}"
        faults.append(f"{short(file)}: `{' '.join(command)}` ended with {done.returncode}{way_out}")
    return faults


# --- the page --------------------------------------------------------------------------------------------------


def check_readme(folders: list[Path]) -> list[str]:
    rows = re.findall(r"^\| \[([\w-]+/[\w-]+)\]\(([^)]+)\) \| (\w+) \|", README.read_text(), re.MULTILINE)
    written = {name: kind for name, _, kind in rows}
    faults = [
        f"{short(README)}: {name} links to {target}" for name, target, _ in rows if target.rstrip("/") != name
    ]
    there = {}
    for folder in folders:
        found = re.search(r'^kind = "(\w+)"', (folder / "topology.toml").read_text(), re.MULTILINE)
        there[f"{folder.parent.name}/{folder.name}"] = found[1] if found else None
    for name, kind in there.items():
        if name not in written:
            faults.append(f"{short(README)}: {name} is missing from the table")
        elif written[name] != kind:
            faults.append(f"{short(README)}: {name} is {kind}, not {written[name]}")
    return faults + [f"{short(README)}: there is no {name}" for name in written if name not in there]


def line_of(path: Path, key: str) -> int:
    """Where a key of a TOML file stands."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.match(rf"{re.escape(key)}\b", line) or line == f"[{key}]":
            return number
    return 1


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
