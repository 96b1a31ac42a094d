#!/usr/bin/env python3
"""Breaks the harness on purpose, one piece at a time, and sees whether its tests notice.

    python3 scripts/sabotage.py             every sabotage, each in a copy of the checkout (half an hour)
    python3 scripts/sabotage.py NAME...     these
    python3 scripts/sabotage.py --check     whether each still applies, and the page names just these (a second)
    python3 scripts/sabotage.py --page      writes docs/sabotages.md

The sabotages are in harness/tests/sabotages.toml: a text of the source that occurs once, what it becomes, and the
test that has to fail then. Exit status: 0 where each is noticed, 1 where one is not or is out of date.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "harness/tests/sabotages.toml"
PAGE = ROOT / "docs/sabotages.md"
WORK = ROOT / "target/sabotage"

INTRODUCTION = """\
<!-- Generated: do not edit. `python3 scripts/sabotage.py --page` renews it. -->
# Sabotages

A harness that records or judges wrongly would pass servers that lose requests. Its tests are there to notice; whether
they do is tried by breaking the harness on purpose. Each row below is one change to it and the test that fails then.

```sh
python3 scripts/sabotage.py                 # every one, in a copy of the checkout: half an hour
python3 scripts/sabotage.py rst-as-fin      # one
python3 scripts/sabotage.py --check         # whether each still applies: a part of scripts/test.sh
```

A sabotage counts as noticed only where the same test passes without it, where the broken harness compiles, and where
the test named here is the one that fails. They are written in
[`sabotages.toml`](../harness/tests/sabotages.toml), where a new one needs five lines.
"""


def main(arguments):
    sabotages = tomllib.loads(TABLE.read_text())["sabotage"]
    faults = [fault for sabotage in sabotages for fault in out_of_date(sabotage)]
    names = [sabotage["name"] for sabotage in sabotages]
    faults += [f"{name}: there twice" for name in set(names) if names.count(name) > 1]
    if arguments == ["--page"]:
        PAGE.write_text(page(sabotages))
    elif arguments == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text() != page(sabotages):
            faults.append(f"{PAGE.relative_to(ROOT)} is out of date: run scripts/sabotage.py --page")
    elif unknown := set(arguments) - set(names):
        faults = [f"no sabotage {', '.join(sorted(unknown))}; there are {', '.join(names)}"]
    elif not faults:
        faults = try_all([one for one in sabotages if not arguments or one["name"] in arguments])
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(sabotages)} sabotages, {len(faults)} faults")
    return 1 if faults else 0


def out_of_date(sabotage):
    """Says what keeps a sabotage from being tried."""
    name, path = sabotage["name"], ROOT / sabotage["file"]
    if not path.is_file():
        yield f"{name}: there is no {sabotage['file']}"
    elif (found := path.read_text().count(sabotage["old"])) != 1:
        yield f"{name}: its text occurs {found} times in {sabotage['file']}, not once"
    if sabotage["old"] == sabotage["new"]:
        yield f"{name}: changes nothing"
    if not test_exists(*sabotage["test"]):
        yield f"{name}: there is no test {' '.join(sabotage['test'])}"


def test_exists(target, test):
    """Whether the source of a target has a test function of this name."""
    tests = ROOT / "harness/tests"
    folder = ROOT / "harness/src" if target == "lib" else tests / target
    files = [*folder.rglob("*.rs"), tests / f"{target}.rs"]
    module, _, function = test.rpartition("::")
    pattern = re.compile(rf"^ *(async )?fn {re.escape(function)}\(", re.MULTILINE)
    last = module.rpartition("::")[2]
    return any(
        pattern.search(path.read_text())
        for path in files
        if last in ("", "tests", path.stem, path.parent.name) and path.is_file()
    )


def try_all(sabotages):
    """Tries sabotages one after the other in a copy, and returns those that nothing notices."""
    copy()
    faults = []
    for test in sorted({tuple(sabotage["test"]) for sabotage in sabotages}):
        if result := run(test):
            faults.append(f"{' '.join(test)}: fails without any sabotage:\n{result}")
    if faults:
        return faults
    for sabotage in sabotages:
        path = WORK / "tree" / sabotage["file"]
        original = path.read_text()
        path.write_text(original.replace(sabotage["old"], sabotage["new"]))
        try:
            result = run(sabotage["test"])
        finally:
            path.write_text(original)
        if result is None:
            verdict = "NOT NOTICED"
        elif f"test {sabotage['test'][1]} ... FAILED" in result:
            verdict = "noticed"
        else:
            verdict = "DOES NOT COMPILE"
        print(f"{sabotage['name']:<32} {verdict:<12} by {' '.join(sabotage['test'])}", flush=True)
        if verdict != "noticed":
            faults.append(f"{sabotage['name']}: {verdict}\n{(result or '')[-3000:]}")
    return faults


def copy():
    """Brings the copy up to date; what has not changed keeps its time, so that it is not compiled again."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    tree = WORK / "tree"
    wanted = {name for name in files if name and (ROOT / name).is_file()}
    for name in wanted:
        source, target = ROOT / name, tree / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        if str(path.relative_to(tree)) not in wanted:
            path.unlink()


def run(test):
    """Runs one test in the copy; None where it passes, or else what was printed."""
    target, name = test
    kind = ["--lib"] if target == "lib" else ["--test", target]
    command = ["cargo", "test", "--locked", *kind, "--", "--exact", name]
    quick = {"CARGO_INCREMENTAL": "1", "CARGO_PROFILE_DEV_OPT_LEVEL": "0", "CARGO_PROFILE_DEV_DEBUG": "0"}
    environment = {**os.environ, **quick, "CARGO_TARGET_DIR": str(WORK / "target")}
    done = subprocess.run(
        command, check=False, cwd=WORK / "tree", env=environment, capture_output=True, text=True
    )
    output = done.stdout + done.stderr
    if done.returncode == 0 and "1 passed" in output:
        return None
    return output


def page(sabotages):
    """The page, in the order of the table."""
    text = INTRODUCTION
    part = None
    for sabotage in sabotages:
        if sabotage["part"] != part:
            part = sabotage["part"]
            text += f"\n## {part}\n\n| sabotage | what is broken | noticed by |\n|---|---|---|\n"
        target, test = sabotage["test"]
        text += f"| `{sabotage['name']}` | {sabotage['what']} | `{target}`: `{test}` |\n"
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
