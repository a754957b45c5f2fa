"""Real processes of scripts without the seconds that their imports take: one process imports, and forks the others.

Run as a script, with the modules to import as arguments, this module is that process: each line on its standard input
is a command, answered by one line.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A process of a script; ``log`` holds what it printed."""

    def __init__(self, launcher: Launcher, pid: int, log: Path):
        self.launcher, self.pid, self.log = launcher, pid, log

    def status(self, timeout: float = 0.0) -> int | None:
        """Exit status, negative for the signal that killed it; None if it still runs after ``timeout`` seconds."""
        return self.launcher.ask({"wait": self.pid, "timeout": timeout})

    def send(self, number: int) -> None:
        os.kill(self.pid, number)


class Launcher:
    """Starts scripts of ``examples/`` in forked processes.

    Args:
        folder: for their logs.
        modules: to import before; the first one is the script that is started unless another is asked for.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = ("train_defect_model",)):
        self.script = modules[0]
        self.folder, self.count = folder, 0
        env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, __file__, *modules], env=env, text=True, **pipes)

    def ask(self, command: dict) -> int | None:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        arguments: Sequence[object],
        env: dict[str, object] | None = None,
        before: str = "",
        script: str | None = None,
    ) -> Child:
        """Start a script; ``before`` is Python to run first."""
        self.count += 1
        log = self.folder / f"{self.count}.log"
        command = {"start": [str(a) for a in arguments], "log": str(log), "before": before}
        command["script"] = script or self.script
        return Child(self, self.ask(command | {"env": {k: str(v) for k, v in (env or {}).items()}}), log)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def run_child(command: dict) -> None:
    """In the forked process: the script's own main, with its output in the log."""
    from dinov3.defect_errors import run_script

    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(command["env"])
    status = 1
    try:
        script = importlib.import_module(command["script"])
        exec(command["before"], {})
        run_script(lambda: script.main(command["start"]))
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.01)


def serve() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
    for module in sys.argv[1:]:  # what takes seconds
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alive: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if "wait" in command:
            answer = wait(command["wait"], command["timeout"])
            if answer is not None:
                alive.discard(command["wait"])
        else:
            answer = os.fork()
            if answer == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                run_child(command)
            alive.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
