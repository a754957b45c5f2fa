"""One server: its model, its worker, its limits and who may use it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from dinov3.data.defect_images import ImageBytes, ImageReadError
from dinov3.defect_errors import DefectError
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.keys import Keys
from dinov3.defect_serving.logs import log
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.models import ModelRegistry, ServedModel
from dinov3.defect_serving.worker import Result, Task, Worker
from dinov3.inference.records import Record, failed_record, make_record

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Outcome:
    """What is said of one image.

    Attributes:
        status: that of HTTP if it were the only image: 200; 422, it cannot be read; 500; 504, not in time.
    """

    record: Record
    status: int = 200


class Service:
    """What the routes work with.

    Raises:
        DefectError: a flag, a key file or the model cannot be used.
    """

    def __init__(self, config: ServeConfig):
        expect_sound(config)
        self.config, self.metrics = config, Metrics()
        self.keys = Keys(config.api_key_file, "--api_key_file") if config.api_key_file else None
        self.admin_keys = Keys(config.admin_key_file, "--admin_key_file") if config.admin_key_file else None
        self.models = ModelRegistry(config, self._model_changed)
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

    @property
    def problem(self) -> str:
        """Why nothing can be inspected now; empty if it can."""
        return "the server is shutting down" if self.worker.draining else self.worker.problem

    async def inspect(
        self, images: list[ImageBytes], model: ServedModel, *, mask: bool, attention: bool, deadline: float
    ) -> list[Outcome]:
        """What becomes of images that room was reserved for, in their order.

        Args:
            mask, attention: add them to the records, as ``data:`` addresses of PNG files.
            deadline: by the clock of the event loop; images that are not done by then have no verdict.
        """
        tasks = [
            Task(image, model, _finisher(image.name, model, self.config.mm_per_pixel, mask, attention))
            for image in images
        ]
        for task in tasks:
            self.worker.submit(task)
        answers = [asyncio.wrap_future(task.answer) for task in tasks]
        await asyncio.wait(answers, timeout=max(deadline - asyncio.get_running_loop().time(), 0))
        outcomes = [self._outcome(image.name, answer) for image, answer in zip(images, answers, strict=True)]
        for outcome in outcomes:
            verdict = outcome.record.get("verdict", "error")
            self.metrics.results.labels(verdict).inc()
            if verdict != "error":
                self.metrics.scores.observe(outcome.record["defect_probability"])
        return outcomes

    def _outcome(self, name: str, answer: asyncio.Future[Outcome]) -> Outcome:
        if not answer.done():
            answer.cancel()
            return Outcome(failed_record(name, f"{name}: no result in {self.config.timeout:g} s; send it again"), 504)
        if answer.exception() is not None:
            return Outcome(failed_record(name, f"{name}: the inspection failed; see the server's log"), 500)
        return answer.result()

    def close(self) -> None:
        """Finish what was accepted."""
        self.worker.close()


def _finisher(
    name: str, model: ServedModel, mm_per_pixel: float | None, mask: bool, attention: bool
) -> Callable[[Result], Outcome]:
    def finish(result: Result) -> Outcome:
        if isinstance(result, ImageReadError):
            return Outcome(failed_record(name, str(result)), 422)
        record = make_record(name, result, mm_per_pixel)
        record["mask"] = png_uri(result.mask) if mask else None  # there is no folder that it could lie in
        if attention:
            strongest = max(float(result.attention.max()), 1e-12)
            record["attention"] = png_uri((result.attention * (255 / strongest)).round().astype(np.uint8))
        return Outcome(record)

    return finish


def png_uri(image: np.ndarray) -> str:
    """An (H, W) uint8 array as ``data:`` address of a PNG file."""
    content = cv2.imencode(".png", image)[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


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
