"""One server: its model, its worker, its sinks, its limits and who may use it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from dinov3.data.defect_images import ImageBytes
from dinov3.defect_errors import DefectError
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.drift_watch import DriftWatch
from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.keys import Keys
from dinov3.defect_serving.logs import LOGGER, log
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.models import ModelRegistry, ServedModel
from dinov3.defect_serving.occasion import Occasion
from dinov3.defect_serving.recording import Recorder
from dinov3.defect_serving.results import Extras, Outcome, TakeEvidence, finisher, messages
from dinov3.defect_serving.sinks.outbox import Outbox
from dinov3.defect_serving.worker import Task, Worker
from dinov3.inference.parts import calibrated_views
from dinov3.inference.pipeline import Source
from dinov3.inference.records import failed_record

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Service:
    """What the routes work with.

    Args:
        outbox: of the sinks, if there are any.
        recorder: of the results database, if there is one.

    Raises:
        DefectError: a flag, a key file or the model cannot be used.
    """

    def __init__(
        self, config: ServeConfig, metrics: Metrics, outbox: Outbox | None = None, recorder: Recorder | None = None
    ):
        self.config, self.metrics, self.outbox, self.recorder = config, metrics, outbox, recorder
        self.store = None if recorder is None else recorder.store
        self.drift: DriftWatch | None = None
        self.part_of = config.part_of()
        self.keys = Keys(config.api_key_file, "--api_key_file") if config.api_key_file else None
        self.admin_keys = Keys(config.admin_key_file, "--admin_key_file") if config.admin_key_file else None
        self.models = ModelRegistry(config, self._model_changed)
        if recorder is not None and config.drift_reference is not None:
            self.drift = DriftWatch(config, recorder.store, self.models.current, metrics)
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="store")
        self.worker = Worker(
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            queue_size=config.queue_size,
            max_pixels=config.max_megapixels * 1e6,
            metrics=self.metrics,
        )

    def _model_changed(self, model: ServedModel) -> None:
        brief = model.brief
        self.metrics.model.info({name: str(brief[name]) for name in ("name", "fingerprint", "engine", "precision")})
        log("model in use", **brief)
        if self.drift is not None and not self.tests_drift(model):
            LOGGER.warning(
                "the test for drift is of another model, and stands still", extra={"facts": {"model": self.drift.model}}
            )

    def tests_drift(self, model: ServedModel) -> bool:
        """Whether images that the model inspects are tested for drift: the reference is of one model."""
        return self.drift is not None and self.drift.model == model.brief["fingerprint"]

    @property
    def problem(self) -> str:
        """Why nothing can be inspected now; empty if it can."""
        if self.worker.draining:
            return "the server is shutting down"
        if self.outbox is not None and self.outbox.full:
            return "--buffer_size results wait for a sink that cannot be reached; see the log"
        if self.recorder is not None and self.recorder.full:
            return "--queue_size results wait for the results database"
        return self.worker.problem

    async def inspect(
        self, images: list[ImageBytes], model: ServedModel, extras: Extras, *, deadline: float
    ) -> list[Outcome]:
        """What becomes of images that room was reserved for, in their order.

        Args:
            deadline: by the clock of the event loop; images that are not done by then have no verdict.
        """
        scale = self.config.mm_per_pixel
        tasks = [
            Task(image, model, finisher(image.name, model, scale, extras, self.evidence(image))) for image in images
        ]
        for task in tasks:
            self.worker.submit(task)
        answers = [asyncio.wrap_future(task.answer) for task in tasks]
        await asyncio.wait(answers, timeout=max(deadline - asyncio.get_running_loop().time(), 0))
        return [self._outcome(image.name, answer) for image, answer in zip(images, answers, strict=True)]

    def evidence(self, source: Source) -> TakeEvidence | None:
        """What takes the evidence of an image; None without a results database."""
        return None if self.recorder is None else partial(self.recorder.evidence, source)

    def _outcome(self, name: str, answer: asyncio.Future[Outcome]) -> Outcome:
        if not answer.done():
            answer.cancel()
            return Outcome(failed_record(name, f"{name}: no result in {self.config.timeout:g} s; send it again"), 504)
        if answer.exception() is not None:
            return Outcome(failed_record(name, f"{name}: the inspection failed; see the server's log"), 500)
        return answer.result()

    async def keep(
        self, occasion: Occasion, model: ServedModel, images: Sequence[ImageBytes], outcomes: Sequence[Outcome]
    ) -> None:
        """Count what is about to be answered, and keep it in the results database and for the sinks, if there are any.

        Raises:
            RequestError: it cannot be kept, so it must not be answered.
        """
        try:
            if self.recorder is not None:
                await self._record(self.recorder, occasion, model, images, outcomes)
            if self.outbox is not None:
                kept = messages(occasion, model, outcomes, self.parts(occasion, model, outcomes))
                await asyncio.get_running_loop().run_in_executor(self._storing, self.outbox.add, kept)
        except (DefectError, OSError, sqlite3.Error, asyncio.TimeoutError):
            LOGGER.exception("results could not be kept", extra={"facts": {"request_id": occasion.request_id}})
            raise RequestError(503, "the results could not be kept; see the server's log", 30) from None
        self.count(outcomes)

    def parts(self, occasion: Occasion, model: ServedModel, outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
        """What the images of each part come to, by its name."""
        return occasion.parts((outcome.record for outcome in outcomes), self.views_to_reject(model))

    def views_to_reject(self, model: ServedModel) -> int:
        """Images that must be rejected to reject a part: as asked for, or as the model was calibrated, or 1."""
        return self.config.views_to_reject or calibrated_views(model.predictor.calibration) or 1

    async def _record(
        self,
        recorder: Recorder,
        occasion: Occasion,
        model: ServedModel,
        images: Sequence[ImageBytes],
        outcomes: Sequence[Outcome],
    ) -> None:
        found = [
            outcome
            if outcome.evidence is not None
            else replace(outcome, evidence=await asyncio.to_thread(recorder.evidence, image, outcome, None))
            for image, outcome in zip(images, outcomes, strict=True)
        ]
        written = asyncio.wrap_future(recorder.add(occasion, model, found))
        await asyncio.wait_for(written, self.config.timeout)

    def count(self, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes to the figures."""
        for outcome in outcomes:
            verdict = outcome.record.get("verdict", "error")
            self.metrics.results.labels(verdict).inc()
            if verdict != "error":
                self.metrics.scores.observe(outcome.record["defect_probability"])

    def close(self) -> None:
        """Finish what was accepted."""
        if self.drift is not None:
            self.drift.close()
        self.worker.close()
        self._storing.shutdown()


def expect_sound(config: ServeConfig) -> None:
    """Raise DefectError for flags that do not go together."""
    if config.host not in LOOPBACK and config.api_key_file is None:
        raise DefectError(
            f"--host {config.host}: everyone in the network could use this server; give --api_key_file FILE with lines "
            "of NAME:KEY, or leave --host out to serve this machine alone"
        )
    if config.max_images > config.queue_size:
        raise DefectError(
            f"--max_images {config.max_images}: more than --queue_size {config.queue_size}; such a request would be "
            "refused whenever it comes"
        )
    if config.model_dir is not None and not config.model_dir.is_dir():
        raise DefectError(f"--model_dir {config.model_dir}: no such folder")
    if config.watch is not None and config.store is None and config.mqtt is None and config.webhook is None:
        raise DefectError(f"--watch {config.watch}: its results would go nowhere; give --store, --mqtt or --webhook")
    if config.store is None and config.drift_reference is not None:
        raise DefectError("--drift_reference needs --store, where it finds what came since")
    if config.store is None and (config.store_days or config.store_mb or config.store_images):
        raise DefectError("--store_days, --store_mb and --store_images need --store")
    if config.store_images is None and config.store_keep != "all":
        raise DefectError(f"--store_keep {config.store_keep} needs --store_images, the folder for the copies")
