"""Installs what the servers of one language share, once, however many builds ask for it at the same time.

    python3 install.py python     .venv, from requirements.txt
    python3 install.py node       node_modules, from package-lock.json
"""

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


def install_python() -> None:
    venv.create(HERE / ".venv", clear=True, with_pip=True)
    pip = [HERE / ".venv/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "--only-binary=:all:", "-r", HERE / "requirements.txt"], check=True)


def install_node() -> None:
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=HERE, check=True)


LANGUAGES = {
    "python": (install_python, "requirements.txt", ".venv"),
    "node": (install_node, "package-lock.json", "node_modules"),
}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in LANGUAGES:
        sys.exit(f"usage: install.py {'|'.join(LANGUAGES)}")
    install, manifest, folder = LANGUAGES[sys.argv[1]]
    wanted = hashlib.sha256((HERE / manifest).read_bytes()).hexdigest()
    # Inside of what was installed, so that whoever removes the one removes the other.
    stamp = HERE / folder / "installed-from"
    (HERE / "build").mkdir(exist_ok=True)
    with open(HERE / "build" / f"{sys.argv[1]}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        install()
        stamp.write_text(wanted)


main()
