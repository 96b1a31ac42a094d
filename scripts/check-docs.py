#!/usr/bin/env python3
"""Holds what the pages say against what is there.

    python3 scripts/check-docs.py

- A relative link leads to a file, and its fragment to a heading of it.
- A link whose text is a name in code, such as [`ShutDown`](../servers/go/lifecycle.go), leads to a source file
  that defines this name.
- docs/exit-status.md has the statuses that `drainspec --help` has, word by word, and docs/architecture.md every
  record that a timeline can have, and docs/adding-a-server.md every feature.

Prints file, line and fault of everything that does not hold, and ends with 1.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {".go", ".py", ".js", ".rs"}
NOT_OURS = {"node_modules", "target", "build", ".venv", ".git"}
LINK = re.compile(r"(?<!!)\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)")
NAME = re.compile(r"`#?([A-Za-z_][A-Za-z0-9_]*)(?:\(\))?`")


def main() -> int:
    pages = sorted(p for p in ROOT.rglob("*.md") if not NOT_OURS & set(p.relative_to(ROOT).parts))
    faults = [fault for page in pages for fault in check_links(page)]
    faults += check_exit_status() + check_records() + check_features()
    for fault in faults:
        print(fault)
    print(f"{len(pages)} pages, {len(faults)} faults")
    return 1 if faults or not pages else 0


def check_links(page: Path) -> list[str]:
    faults = []
    for number, line in prose(page.read_text()):
        for text, target in LINK.findall(line):
            fault = check_link(page, text, target)
            if fault:
                faults.append(f"{page.relative_to(ROOT)}:{number}: {fault}")
    return faults


def check_link(page: Path, text: str, target: str) -> str | None:
    if re.match(r"[a-z]+:", target):
        return None  # of the web
    name, _, fragment = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.is_relative_to(ROOT) or not path.exists():
        return f"{target}: there is no such file"
    if path.suffix in SOURCES and (row := re.fullmatch(r"L(\d+)", fragment)):
        if int(row[1]) > len(path.read_text().splitlines()):
            return f"{target}: {path.name} has no such line"
    elif fragment and fragment not in anchors(path):
        return f"{target}: {path.name} has no such heading"
    wanted = NAME.fullmatch(text)
    if wanted and path.suffix in SOURCES and wanted[1] not in definitions(path):
        return f"`{wanted[1]}` is not defined in {name}"
    return None


def prose(text: str) -> list[tuple[int, str]]:
    """Numbered lines outside of code blocks."""
    lines, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            lines.append((number, line))
    return lines


def anchors(page: Path) -> set[str]:
    """Fragments of a page's headings, as GitHub makes them: the second of the same name gets -1, and so on."""
    found: list[str] = []
    for _, line in prose(page.read_text()):
        if heading := re.match(r"#{1,6} +(.*)", line):
            slug = re.sub(r"[^\w\- ]", "", heading[1].strip().lower()).replace(" ", "-")
            found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
        found += re.findall(r'<a (?:name|id)="([^"]+)"', line)
    return set(found)


def definitions(path: Path) -> set[str]:
    """Names that a source file defines: functions, methods, types, constants; in Rust also the module it is."""
    patterns = {
        ".go": [r"^func (?:\([^)]*\) )?(\w+)", r"^type (\w+)", r"^\t?(?:const |var )?(\w+)\b.*="],
        ".py": [r"^\s*(?:async )?def (\w+)", r"^\s*class (\w+)"],
        ".js": [r"(?:function\*?|class|const) (\w+)", r"^ +(?:async |static |get |\*)*#?(\w+)\(.*\{$"],
        ".rs": [r"\b(?:fn|struct|enum|trait|const|type|static) (\w+)"],
    }[path.suffix]
    text = path.read_text()
    module = {path.parent.name if path.name == "mod.rs" else path.stem} if path.suffix == ".rs" else set()
    return module | {name for pattern in patterns for name in re.findall(pattern, text, re.MULTILINE)}


def check_exit_status() -> list[str]:
    page = ROOT / "docs/exit-status.md"
    source = (ROOT / "harness/src/cli/exit.rs").read_text()
    text = re.search(r'pub const HELP: &str = "(.*?)";', source, re.DOTALL)
    rows = re.findall(r"^  (\d+) +(.*)$", text[1], re.MULTILINE) if text else []
    if not rows:
        return ["harness/src/cli/exit.rs: the statuses in HELP were not found: has it moved?"]
    written = dict(re.findall(r"^\| (\d+) \| ([^|]*?) \|", page.read_text(), re.MULTILINE))
    faults = [
        f"docs/exit-status.md: status {status} should read: {meaning}"
        for status, meaning in rows
        if written.get(status) != meaning
    ]
    statuses = {status for status, _ in rows}
    return faults + [f"docs/exit-status.md: status {s} does not exist" for s in written if s not in statuses]


def check_records() -> list[str]:
    return check_table("timeline/mod.rs", "Event", "docs/architecture.md", "What is on a timeline")


def check_features() -> list[str]:
    return check_table("catalog/server.rs", "Feature", "docs/adding-a-server.md", "Features")


def check_table(source: str, enum: str, page: str, heading: str) -> list[str]:
    """The first column of the table below a heading names exactly the variants of an enum, in kebab case."""
    text = (ROOT / "harness/src" / source).read_text()
    body = re.search(rf"^pub enum {enum} \{{(.*?)^\}}", text, re.DOTALL | re.MULTILINE)
    variants = re.findall(r"^    ([A-Z]\w*)", body[1], re.MULTILINE) if body else []
    if not variants:
        return [f"harness/src/{source}: `enum {enum}` was not found: has it moved?"]
    there = {re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() for name in variants}
    section = (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    written = set(re.findall(r"`([^`]+)`", "".join(rows)))
    faults = [f"{page}: `{name}` is missing from the table" for name in sorted(there - written)]
    return faults + [f"{page}: there is no `{name}`" for name in sorted(written - there)]


if __name__ == "__main__":
    sys.exit(main())
