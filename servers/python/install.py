"""Installs what the server needs into build/venv, once, however many builds ask for it at the same time."""

import fcntl
import hashlib
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
VENV = HERE / "build/venv"


def main() -> None:
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = VENV / "installed-from"  # inside of what was installed: whoever removes the one removes the other
    (HERE / "build").mkdir(exist_ok=True)
    with open(HERE / "build/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        venv.create(VENV, clear=True, with_pip=True)
        pip = [VENV / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--require-hashes", "--only-binary=:all:", "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)


main()
