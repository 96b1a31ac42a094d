"""The Python reference with one fault on purpose: python3 main.py FAULT.

Nothing is copied. The reference is loaded from ../../python, the fault replaces the smallest possible piece of
it, and then the reference's own main runs. faults/ holds the table.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

import main as reference
from faults import FAULTS

if __name__ == "__main__":
    names = sys.argv[1:]
    if len(names) != 1 or names[0] not in FAULTS:
        given = "a fault is missing" if not names else f"there is no fault {' '.join(names)!r}"
        print(f"mutant/main.py: {given}; faults/__init__.py has the table", file=sys.stderr)
        sys.exit(2)
    FAULTS[names[0]]()
    status = reference.main()
    reference.flush()
    os._exit(status)  # as the reference ends
