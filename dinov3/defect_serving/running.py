"""From flags to a server that runs until it is told to stop."""

from __future__ import annotations

import math
import socket

import cv2
import uvicorn

from dinov3.defect_errors import DefectError
from dinov3.defect_interrupts import StopSignals
from dinov3.defect_serving.app import create_app
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.logs import log, start_log
from dinov3.defect_serving.service import Service

GRACE = 5  # seconds beyond --timeout to answer in, after SIGTERM


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted.

    Raises:
        DefectError: a flag, a file or the address cannot be used.
    """
    start_log()
    cv2.setNumThreads(1)  # images are finished side by side
    listening = listen(config)
    with StopSignals() as signals:  # uvicorn hands them on at its end
        service = Service(config)
        try:
            grace = math.ceil(config.timeout) + GRACE
            settings = uvicorn.Config(
                create_app(service),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=grace,
                backlog=1024,
            )
            server = uvicorn.Server(settings)
            host, port = listening.getsockname()[:2]
            if not signals.received:
                log("serving", host=host, port=port, keys=service.keys is not None)
                server.run(sockets=[listening])
        finally:
            service.close()
            listening.close()
    log("stopped", signal=signals.received)


def listen(config: ServeConfig) -> socket.socket:
    """The socket of ``--host`` and ``--port``.

    Raises:
        DefectError: it cannot be had.
    """
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((config.host, config.port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise DefectError(
            f"--host {config.host} --port {config.port}: cannot listen there ({error}); is another server running?"
        ) from None
