"""The model in use, and the change to another one without a gap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.logs import now
from dinov3.defect_station.store.inspected import deciding_settings
from dinov3.inference.inspection import open_predictor
from dinov3.inference.pipeline import FileReader
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_facts import fingerprint

SUFFIXES = (".onnx", ".pth")


@dataclass(frozen=True)
class ServedModel:
    """A predictor, ready to run.

    Attributes:
        brief: what every answer says of it.
        settings: what else decides its verdicts, as the results database has it.
    """

    predictor: DefectPredictor
    read: FileReader
    brief: dict[str, Any]
    settings: dict[str, Any]
    since: str

    @classmethod
    def load(cls, config: ServeConfig) -> ServedModel:
        """Open ``config.checkpoint`` and run it once, alone and in a whole batch, so that the first client need not
        wait for what a first run prepares.

        Raises:
            DefectError: it cannot be used.
        """
        digest = fingerprint(config.checkpoint)
        predictor = open_predictor(config)
        side = predictor.image_size
        for count in {1, config.batch_size}:
            predictor.engine.run(np.zeros((count, *side, 3), np.uint8))
        facts, limits = predictor.engine.facts, predictor.thresholds
        brief = {
            "name": config.checkpoint.name,
            "fingerprint": digest,
            "engine": predictor.engine.name,
            "precision": facts.precision,
            "thresholds": {"classification": limits.classification, "review": limits.review, "mask": limits.mask},
        }
        return cls(predictor, FileReader.of(predictor), brief, deciding_settings(config, predictor), now())

    def describe(self) -> dict[str, Any]:
        """All that a client may want to know of it."""
        facts, tiling = self.predictor.engine.facts, self.predictor.tiling
        calibration = self.predictor.calibration or {}
        return self.brief | {
            "since": self.since,
            "checkpoint_fingerprint": facts.fingerprint,
            "backbone": facts.backbone,
            "classes": list(facts.classes),
            "mask_classes": list(facts.mask_classes),
            "image_size": list(facts.image_size),
            "tile_size": 0 if tiling is None else tiling.size,
            "rules": self.predictor.rules is not None,
            "target": calibration.get("target"),
            "promise": calibration.get("promise"),
            "version": facts.version,
        }


class ModelRegistry:
    """Holds the model in use; another one is loaded and warmed up beside it before it takes its place.

    Args:
        config: its ``checkpoint`` is the first model; its other flags hold for all.
        changed: told of each model that comes into use.

    Raises:
        DefectError: the first model cannot be used.
    """

    def __init__(self, config: ServeConfig, changed: Callable[[ServedModel], None]):
        self.config, self._changed, self._changing = config, changed, threading.Lock()
        self.current = ServedModel.load(config)
        changed(self.current)

    @property
    def folder(self) -> Path:
        """Where models to change to are."""
        return self.config.model_dir or self.config.checkpoint.parent

    def available(self) -> list[str]:
        """Names of the files that one can change to."""
        return sorted(p.name for p in self.folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())

    def change(self, name: str) -> ServedModel:
        """Change to the file ``name`` in ``folder``.

        Raises:
            RequestError: there is no such file, it cannot be used, or a change is under way; the model stays.
        """
        if name not in self.available():
            raise RequestError(404, f"{name!r}: no such model here; there are {', '.join(self.available())}")
        if not self._changing.acquire(blocking=False):
            raise RequestError(409, "another change of the model is under way; look at GET /v1/model", 5)
        try:
            model = ServedModel.load(replace(self.config, checkpoint=self.folder / name))
        except (DefectError, OSError, MemoryError, RuntimeError) as error:  # a GPU may have no room for two
            kept = self.current.brief["name"]
            raise RequestError(422, f"{name}: cannot be used, {kept} stays in use ({error})") from None
        else:
            self.current = model
            self._changed(model)
            return model
        finally:
            self._changing.release()
