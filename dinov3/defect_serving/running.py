"""From flags to a server that runs until it is told to stop."""

from __future__ import annotations

import math
import socket
from contextlib import ExitStack
from typing import Any

import cv2
import uvicorn

from dinov3.defect_errors import DefectError
from dinov3.defect_interrupts import StopSignals
from dinov3.defect_serving.app import create_app
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.logs import log, start_log
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.recording import Recorder
from dinov3.defect_serving.service import Service, expect_sound
from dinov3.defect_serving.sinks.outbox import Outbox
from dinov3.defect_serving.sinks.sender import Sender
from dinov3.defect_serving.sinks.webhook import Webhook
from dinov3.defect_serving.watching import FolderInspection

GRACE = 5  # seconds beyond --timeout to answer in, after SIGTERM
SENDING = 3.0  # seconds for sinks to take what is left; the rest stays on disk


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted.

    Raises:
        DefectError: a flag, a file or the address cannot be used.
    """
    start_log()
    expect_sound(config)
    cv2.setNumThreads(1)  # images are finished side by side
    with StopSignals() as signals, ExitStack() as stack:  # uvicorn hands signals on at its end
        listening = stack.enter_context(listen(config))
        outbox, metrics, recorder = open_outbox(config, stack), Metrics(), None
        if config.store is not None:
            recorder = Recorder(config, metrics)
            stack.callback(recorder.close)
        service = Service(config, metrics, outbox, recorder)
        senders = [] if outbox is None else open_senders(config, service, outbox)
        for sender in senders:
            sender.start()
            stack.callback(sender.close, SENDING)
        stack.callback(service.close)
        if service.drift is not None:
            service.drift.start()
        if config.watch is not None and outbox is not None:
            watching = FolderInspection(config.watch, service, outbox)
            watching.start()
            stack.callback(watching.close)
        settings = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=math.ceil(config.timeout) + GRACE,
            backlog=1024,
        )
        server = uvicorn.Server(settings)
        host, port = listening.getsockname()[:2]
        if not signals.received:
            sinks, store = [one.name for one in senders], None if service.store is None else service.store.place
            log("serving", host=host, port=port, keys=service.keys is not None, sinks=sinks, store=store)
            server.run(sockets=[listening])
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


def open_outbox(config: ServeConfig, stack: ExitStack) -> Outbox | None:
    """The outbox of the sinks that are asked for, which also has what was watched; None if there is neither."""
    names = [name for name, address in (("mqtt", config.mqtt), ("webhook", config.webhook)) if address is not None]
    if not names and config.watch is None:
        return None
    outbox = Outbox(config.buffer_dir, names, config.buffer_size)
    stack.callback(outbox.close)
    if outbox.orphaned:
        log("results of sinks that are not asked for stay in the buffer", counts=outbox.orphaned)
    return outbox


def open_senders(config: ServeConfig, service: Service, outbox: Outbox) -> list[Sender]:
    """The sinks that are asked for."""
    senders: list[Sender] = []
    if config.webhook is not None:
        senders.append(Webhook(config.webhook, config.webhook_token_file, outbox, service.metrics))
    if config.mqtt is not None:
        from dinov3.defect_serving.sinks.mqtt import MqttSink

        def state() -> dict[str, Any]:
            model = service.models.current
            drift = service.drift.alarm if service.drift is not None and service.tests_drift(model) else None
            return {"fingerprint": model.brief["fingerprint"], "problem": service.problem, "drift": drift}

        given = (config.mqtt, config.mqtt_user, config.mqtt_password_file, config.mqtt_ca_file)
        senders.append(MqttSink(*given, outbox, service.metrics, state))
    return senders
