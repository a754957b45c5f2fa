"""Real processes of the scripts without the seconds that importing torch takes: they fork from one that imported it."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.drawing import draw_nothing

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("train_defect_model", "inference_defect_model")
CLIENT = Path(__file__).with_name("forking_client.py")


class Child:
    """A process of a script; ``log`` holds what it printed."""

    def __init__(self, launcher: Launcher, pid: int, log: Path):
        self.launcher, self.pid, self.log = launcher, pid, log

    def status(self, timeout: float = 0.0) -> int | None:
        """Exit status, negative for the signal that killed it; None if it still runs after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (status := self.launcher.ask({"status": self.pid})) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return status

    def send(self, number: int) -> None:
        os.kill(self.pid, number)


class Launcher:
    """Starts scripts of ``examples/`` in processes that fork from one which forked off when this was made.

    To be made before anything but imports has happened in this process, so that no thread and no lock of a test is in
    the children.
    """

    def __init__(self) -> None:
        here, there = socket.socketpair()
        self.rendezvous = tempfile.TemporaryDirectory(prefix="fork")  # the path of a socket must be short
        self.door = Path(self.rendezvous.name, "door")
        door = socket.socket(socket.AF_UNIX)
        door.bind(str(self.door))
        door.listen()
        self.pid = os.fork()
        if self.pid == 0:
            here.close()
            try:
                serve(there, door)
            finally:
                os._exit(0)
        there.close()
        door.close()
        self.socket, self.lines = here, here.makefile()
        self.folder, self.count = Path(), 0

    def ask(self, command: dict[str, Any]) -> int | None:
        self.socket.sendall(json.dumps(command).encode() + b"\n")
        return json.loads(self.lines.readline())

    def start(
        self,
        arguments: Sequence[object],
        env: dict[str, object] | None = None,
        before: str = "",
        script: str = "train_defect_model",
    ) -> Child:
        """Start ``script``; ``before`` is Python to run first. What it draws is blank (:func:`draw_nothing`)."""
        self.count += 1
        log = self.folder / f"{self.count}.log"
        env = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | {k: str(v) for k, v in (env or {}).items()}
        command = {"start": [str(a) for a in arguments], "script": script, "log": str(log), "env": env}
        return Child(self, self.ask(command | {"before": before}), log)

    def load(self, *modules: str) -> None:
        """Import ``modules`` before anything forks that needs them."""
        self.ask({"load": modules})

    def python(self, folder: Path) -> Path:
        """A command ``folder``/python that starts scripts of ``examples/`` as :meth:`start` does, for shell scripts."""
        folder.mkdir()
        command = folder / "python"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{CLIENT}" "{self.door}" "$@"\n')
        command.chmod(0o755)
        return command

    def close(self) -> None:
        """Ends what still runs."""
        self.lines.close()
        self.socket.close()
        os.waitpid(self.pid, 0)
        self.rendezvous.cleanup()


def run_child(command: dict[str, Any], out: int, err: int) -> None:
    """In the forked process: the script's own main, with its output in these files; it does not return."""
    from dinov3.defect_errors import run_script

    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    faulthandler.enable(sys.stderr)  # a crash says where
    if "cwd" in command:
        os.chdir(command["cwd"])
        os.environ.clear()
    os.environ.update(command["env"])
    sys.argv = [str(ROOT / "examples" / f"{command['script']}.py"), *command["start"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = 1
    try:
        script = importlib.import_module(command["script"])
        draw_nothing(setattr)
        exec(command.get("before", ""), {})
        run_script(lambda: script.main(command["start"]))
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def status_of(pid: int, options: int = 0) -> int | None:
    found, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if found else None


def fork(command: dict[str, Any], out: int, err: int) -> int:
    """The id of a new process of a script."""
    pid = os.fork()
    if pid == 0:
        run_child(command, out, err)
    return pid


def attend(visitor: socket.socket) -> None:
    """Run what ``forking_client.py`` was called with, with its files, and tell it the status."""
    _, (out, err), *_ = socket.recv_fds(visitor, 1, 2)
    status = status_of(fork(json.loads(visitor.makefile().readline()), out, err))
    visitor.sendall(str(status).encode())


def serve(there: socket.socket, door: socket.socket) -> None:
    """Answer each line from ``there``, a command, by one line, until it is closed; attend to who comes to ``door``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines = there.makefile()
    alive: set[int] = set()
    visits: set[int] = set()
    while True:
        visits -= {pid for pid in visits if status_of(pid, os.WNOHANG) is not None}
        ready, *_ = select.select([there, door], [], [])
        for name in SCRIPTS:  # once, for all that fork
            importlib.import_module(name)
        if door in ready:
            visitor, _ = door.accept()
            pid = os.fork()
            if pid == 0:
                there.close()
                attend(visitor)
                os._exit(0)
            visitor.close()
            visits.add(pid)
            continue
        if not (line := lines.readline()):
            break
        command = json.loads(line)
        answer: int | None = None
        if "load" in command:
            for module in command["load"]:
                importlib.import_module(module)
        elif "status" in command:
            answer = status_of(command["status"], os.WNOHANG)
            if answer is not None:
                alive.discard(command["status"])
        else:
            log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            answer = fork(command, log, log)
            os.close(log)
            alive.add(answer)
        there.sendall(json.dumps(answer).encode() + b"\n")
    for pid in alive | visits:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
