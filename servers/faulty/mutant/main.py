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
    name = sys.argv[1] if len(sys.argv) == 2 else None
    if name not in FAULTS:
        problem = "expected one argument, the name of a fault" if name is None else f"there is no fault {name!r}"
        print(f"mutant/main.py: {problem}; the table is in faults/__init__.py", file=sys.stderr)
        sys.exit(2)
    FAULTS[name]()
    os._exit(reference.main())  # as the reference ends
