"""A server without a handler, by the name of waitress."""

import sys

sys.path.insert(0, "..")
import drains


class Waitress(drains.Reports):
    def version_string(self):
        return "waitress"


drains.Server(("127.0.0.1", int(sys.argv[1])), Waitress).serve_forever()
