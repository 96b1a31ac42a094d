"""A server that knows nothing of signals, and inherits what becomes of them."""

import sys

sys.path.insert(0, "..")
import drains

drains.Server(("127.0.0.1", int(sys.argv[1])), drains.Reports).serve_forever()
