"""``forking_client.py SOCKET SCRIPT FLAG ...``: what ``Launcher.python`` runs; it imports next to nothing."""

import json
import os
import socket
import sys

path, script, *flags = sys.argv[1:]
command = {
    "start": flags,
    "script": os.path.splitext(os.path.basename(script))[0],
    "env": dict(os.environ),
    "cwd": os.getcwd(),
}
with socket.socket(socket.AF_UNIX) as server:
    server.connect(path)
    socket.send_fds(server, [b"f"], [1, 2])
    server.sendall(json.dumps(command).encode() + b"\n")
    status = int(server.recv(64))
sys.exit(status if status >= 0 else 128 - status)
