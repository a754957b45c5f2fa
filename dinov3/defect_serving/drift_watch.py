"""Is what comes in still like what the thresholds were made for? Asked of the results database, behind the line."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.logs import LOGGER, log
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.models import ServedModel
from dinov3.defect_station.drift import open_monitor
from dinov3.defect_station.observations import OnePerPart, of_score
from dinov3.defect_station.store import Store
from dinov3.defect_station.store.inspected import time_text

SECONDS_BETWEEN_LOOKS = 2.0
LOOKED_BACK = 100_000  # images of the database at the start, the latest


class DriftWatch:
    """Tests the images of one model in a results database, whoever wrote them, from the time of the reference on.

    It reads what is new in the database every two seconds, in a thread of its own. So it holds up nobody, and is where
    it was after a restart, but for what retention has removed since.

    Args:
        config: with ``drift_reference``; the time of its last write is where the test begins.
        model: that ran when the server started. What others say counts for nothing here.

    Raises:
        DefectError: the reference cannot be read, or is of another model.
    """

    def __init__(self, config: ServeConfig, store: Store, model: ServedModel, metrics: Metrics):
        self.reference, self.store, self.metrics = config.drift_reference, store, metrics
        self.model, facts, part_of = model.brief["fingerprint"], model.predictor.engine.facts, config.part_of()
        models = {self.model, facts.fingerprint}
        self._monitor = open_monitor(self.reference, config.false_alarm, part_of, models, facts.novelty)
        self.started = time_text(datetime.fromtimestamp(_written(self.reference), timezone.utc))
        # What clients call parts is not known of the reference.
        self._joined, self._last, self._changing = OnePerPart(part_of, part_of is not None), 0, threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def state(self) -> dict[str, Any]:
        """Where the test is, as :meth:`~dinov3.defect_station.drift.DriftMonitor.state` has it, and ``reference``,
        ``model`` and ``started``."""
        with self._changing:
            state = self._monitor.state()
        return {"reference": str(self.reference), "model": self.model, "started": self.started} | state

    @property
    def alarm(self) -> bool:
        """Whether a change was seen."""
        return bool(self._monitor.alarms)

    def _run(self) -> None:
        failed = False
        while not self._stopping.is_set():
            try:
                self._look()
                failed = False
            except Exception:
                if not failed:
                    LOGGER.exception("the results database cannot be read for drift; trying again")
                failed = True
            self._stopping.wait(SECONDS_BETWEEN_LOOKS)

    def _look(self) -> None:
        # Until there was a row; all others are behind it.
        limits = {} if self._last else {"last": LOOKED_BACK, "since": self.started}
        for row in self.store.scores(after=self._last, **limits):
            self._last, image = row["id"], of_score(row, self.model)
            for one in [] if image is None else self._joined.add(image):
                try:
                    with self._changing:
                        alarms = self._monitor.update(one)
                except DefectError as error:  # it lacks what the others have
                    LOGGER.warning("skipped in the test for drift", extra={"facts": {"reason": str(error)}})
                    continue
                for alarm in alarms:
                    log("drift", what=alarm.what, after=alarm.after, image=one.name, row=one.id, time_of_image=one.time)
            if self._stopping.is_set():
                return
        for test in self.state()["tests"]:
            self.metrics.drift_capital.labels(test["what"]).set(test["log_capital"])
            self.metrics.drift_alarm.labels(test["what"]).set(test["alarm"])


def _written(path: Path) -> float:
    return os.stat(path / "predictions.json" if path.is_dir() else path).st_mtime
