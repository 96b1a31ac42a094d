"""A shop: orders are posted."""

import sys

sys.path.insert(0, "..")
import drains


class Shop(drains.Reports):
    def do_GET(self):
        if self.path == "/orders":
            return self.send_error(405)
        return super().do_GET()


drains.Reports = Shop
drains.main()
