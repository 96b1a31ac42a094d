"""Starts drains.py and passes SIGTERM on, or keeps it: python3 supervisor.py passes|keeps PORT [PROGRAM]."""

import signal
import subprocess
import sys
import time

what, port, program = [*sys.argv[1:], "../drains.py"][:3]
child = subprocess.Popen([sys.executable, "-B", program, port])


def on_signal(number, _):
    if what == "passes":
        time.sleep(0.1)  # two that come at once are one
        child.send_signal(number)


signal.signal(signal.SIGTERM, on_signal)
sys.exit(child.wait())
