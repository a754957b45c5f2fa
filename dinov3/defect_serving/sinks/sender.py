"""What sinks have in common: a thread that hands messages on, in their order, until the other end has each."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from dinov3.defect_serving.logs import LOGGER, log
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.sinks.outbox import Outbox, Stored

AT_A_TIME = 50  # messages
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts; each is twice the one before, a little at random


class SendError(Exception):
    """The other end could not be reached, or did not take what it was sent."""


class Sender(ABC):
    """Sends what an outbox holds for one sink."""

    name: ClassVar[str]

    def __init__(self, outbox: Outbox, metrics: Metrics):
        self.outbox, self.metrics = outbox, metrics
        self.stopping = threading.Event()
        metrics.sink_waiting.labels(self.name).set_function(lambda: outbox.waiting(self.name))
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, patience: float) -> None:
        """Send what is left for so many seconds; the rest stays in the outbox."""
        waited = threading.Event()
        for _ in range(int(patience / 0.05)):
            if not self.outbox.waiting(self.name) or not self._thread.is_alive():
                break
            waited.wait(0.05)
        self.stopping.set()
        self.outbox.added[self.name].set()
        self._thread.join(10)

    @abstractmethod
    def send(self, messages: Sequence[Stored]) -> None:
        """Send messages in their order, and tell the outbox of each once the other end has it.

        Raises:
            SendError: it did not get all.
        """

    def _run(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            waiting = self.outbox.waiting(self.name)
            if not waiting:
                self.outbox.added[self.name].wait(1)
                self.outbox.added[self.name].clear()
                continue
            try:
                self.send(self.outbox.oldest(self.name, AT_A_TIME))
                if failures:
                    log("sink reached again", sink=self.name, failures=failures)
                failures = 0
            except Exception as error:
                failures += 1
                self.metrics.sink_failures.labels(self.name).inc()
                if failures == 1 or failures % 20 == 0:
                    trace = None if isinstance(error, SendError) else error
                    facts = {"sink": self.name, "reason": str(error), "failures": failures, "waiting": waiting}
                    LOGGER.warning("sink not reached", extra={"facts": facts}, exc_info=trace)
                pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
                self.stopping.wait(pause * random.uniform(0.5, 1))

    def delivered(self, messages: Sequence[Stored]) -> None:
        """The other end has these."""
        self.outbox.delivered(self.name, [message.number for message in messages])
        self.metrics.sink_delivered.labels(self.name).inc(len(messages))
