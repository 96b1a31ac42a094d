"""gunicorn with gthread workers. On SIGTERM the master sends it on to the workers, which finish what they have within
`graceful_timeout`; SIGINT and SIGQUIT end everything at once.

https://docs.gunicorn.org/en/stable/signals.html
https://docs.gunicorn.org/en/stable/settings.html#graceful-timeout
https://docs.gunicorn.org/en/stable/design.html#how-many-workers
"""

import os

from announce import announce

bind = f"{os.environ.get('HOST') or '127.0.0.1'}:{os.environ.get('PORT') or '8080'}"
# A thread for each request. `threads` is how many requests one process works on, and nothing shares connections out
# evenly between the processes; those that wait between two requests need no thread.
worker_class = "gthread"
workers = 2
threads = 64
graceful_timeout = int(float(os.environ.get("DRAIN_TIMEOUT", "30")))
# Its default path is the same for all instances of one user.
control_socket_disable = True
loglevel = "warning"


def when_ready(server) -> None:
    announce(server.LISTENERS[0].sock.getsockname()[1])
