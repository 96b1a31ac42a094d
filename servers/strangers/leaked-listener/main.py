"""A server that starts a helper and lets it inherit the listener."""

import subprocess
import sys

sys.path.insert(0, "..")
import drains


class Leaking(drains.Server):
    def server_activate(self):
        super().server_activate()
        self.socket.set_inheritable(True)
        subprocess.Popen(["sleep", "45"], pass_fds=[self.socket.fileno()])


drains.Server = Leaking
drains.main()
