"""A server in order whose report takes three seconds: python3 main.py PORT."""

import sys
import time

sys.path.insert(0, "..")
import drains


class Slow(drains.Reports):
    def do_GET(self):
        if self.path == "/report":
            time.sleep(2)
        super().do_GET()


drains.Reports = Slow
drains.main()
