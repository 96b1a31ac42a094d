"""A proxy on the same machine speaks to it."""

import os
import socket
import tempfile
import time

path = os.path.join(tempfile.mkdtemp(), "app.sock")
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
time.sleep(60)
