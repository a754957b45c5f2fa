"""Ray: the cluster to work on, and how many actors it has room for."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import dinov3
from dinov3.data.defect_images import PIXELS_VARIABLE
from dinov3.defect_deployment.archive.config import ArchiveConfig
from dinov3.defect_errors import DefectError
from dinov3.models.defect_engines.onnx_engine import usable_cores

STORE = 2**28  # bytes of a local cluster's memory for what its processes share, beside the model


@contextmanager
def connected(config: ArchiveConfig, model_bytes: int) -> Iterator[ModuleType]:
    """Ray with a cluster, while the context lasts: that of ``--address``, or one of this machine that ends with it.

    Raises:
        DefectError: there is none at the address.
    """
    expect_listening(config.address)
    ray = import_ray(config.address is None)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if config.address is None:
            cores = max(usable_cores(), (config.actors or 1) * config.cpus_per_actor)
            store = STORE + 2 * model_bytes
            ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=store, **quiet)
        else:
            ray.init(config.address, runtime_env=code_for_others(), **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())[:300]
        if config.address is None:
            raise DefectError(f"Ray cannot be started here ({told})") from None
        raise no_cluster(config.address, told) from None
    try:
        if on_main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there
        yield ray
    finally:
        ray.shutdown()


def expect_listening(address: str | None) -> None:
    """Find out in seconds what Ray takes minutes for.

    Raises:
        DefectError: nothing listens at HOST:PORT.
    """
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # auto, or an address of another kind
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise no_cluster(address, str(error)) from None


def no_cluster(address: str | None, reason: str) -> DefectError:
    """The error to raise."""
    return DefectError(
        f"--address {address}: no cluster of Ray that can be used ({reason}); start one with 'ray start --head', and "
        "run this on one of its machines, with the same versions and token"
    )


def import_ray(local: bool) -> ModuleType:
    """Ray, told what it reads from the environment as it is imported: no usage report; no remarks of its core beside
    its logs; and, for a cluster of this machine alone, a token for its ports, which run what they are sent."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if local and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


def code_for_others() -> dict[str, object]:
    """The code and the settings of this process, for the machines of a cluster: all run the same version."""
    settings = {PIXELS_VARIABLE: os.environ[PIXELS_VARIABLE]} if PIXELS_VARIABLE in os.environ else {}
    return {"py_modules": [str(Path(dinov3.__file__).parent)], "env_vars": settings}


def actors_of(config: ArchiveConfig, files: int, machines: list[dict[str, float]]) -> int:
    """How many actors to start for so many files, on machines with so much of everything.

    Raises:
        DefectError: the cluster has room for none.
    """
    room = sum(_room(machine, config) for machine in machines)
    if room == 0 and (config.actors is None or config.address is None):  # to a cluster, machines may come yet
        told = "; ".join(f"{one.get('CPU', 0):g} cores, {one.get('GPU', 0):g} GPUs" for one in machines)
        raise DefectError(
            f"--cpus_per_actor {config.cpus_per_actor} --gpus_per_actor {config.gpus_per_actor:g}: no machine has so "
            f"much; found: {told}"
        )
    return min(config.actors or room, files)


def _room(machine: dict[str, float], config: ArchiveConfig) -> int:
    room = int(machine.get("CPU", 0) / config.cpus_per_actor)
    if config.gpus_per_actor:
        room = min(room, int(machine.get("GPU", 0) / config.gpus_per_actor + 1e-6))
    return room
