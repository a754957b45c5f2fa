"""From a model and images to predictions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dinov3.data.defect_resize import resize_image
from dinov3.data.defect_tiles import Tiling
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.thresholds import Thresholds, expect_finite
from dinov3.inference.prediction import Prediction
from dinov3.inference.preprocess import load_input
from dinov3.inference.regions import Region, find_regions
from dinov3.inference.rules import Rules
from dinov3.inference.verdict import NovelPlace, OnDisagreement, decide
from dinov3.models.defect_engines import Engine, EngineName, Started, open_engine
from dinov3.models.defect_sliding_window import slide_window


@dataclass(frozen=True)
class TilesOutput:
    """What the network says of one image by tiles."""

    class_prob: np.ndarray  # (K,), calibrated
    peak: np.ndarray  # (H, W) float32, the strongest mask channel's probability
    channel: np.ndarray  # (H, W) uint8, which one
    attention: np.ndarray  # (h, w) float32
    embedding: np.ndarray | None  # (D,) float32
    seconds: float


class DefectPredictor:
    """Predicts images with one model.

    ``predictor(image)`` takes a path, a PIL image, an (H, W, 3), (H, W, 4) or (H, W) uint8 array, or a (3, H, W) uint8
    tensor, and returns a :class:`Prediction`; a list of them gives a list. An unreadable file raises
    ``ImageReadError``; :func:`~dinov3.inference.pipeline.predict_files` reports it instead and goes on.

    A model trained on tiles slides its tile over each image; ``tile_size`` and ``tile_overlap`` ask for other tiles
    than the model's, or with size 0 for none. An answer that is not finite raises ``NotFiniteError``.

    Args:
        engine: what runs the model, and its facts.
        threshold, mask_threshold: in place of the model's.
        rules: limits that images must keep to besides; in place of the model's, if it has any.
        mm_per_pixel: the size of a pixel, for limits in millimetres.
        min_region_area: regions of fewer pixels are ignored.
        on_disagreement: what becomes of an image whose mask contradicts the classifier, see
            :func:`~dinov3.inference.verdict.decide`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        tile_size: int | None = None,
        tile_overlap: float | None = None,
        rules: Rules | Path | str | None = None,
        mm_per_pixel: float | None = None,
        min_region_area: float = 0,
        on_disagreement: OnDisagreement = "classifier",
    ):
        self.engine, facts = engine, engine.facts
        self.classes, self.mask_classes = list(facts.classes), list(facts.mask_classes)
        self.image_size = facts.image_size  # height, width
        self.white_level = facts.white_level  # of its training images
        stored = facts.to_table()
        self.thresholds = Thresholds.of(stored, threshold, mask_threshold)
        self.tiling = Tiling.of(stored, tile_size, tile_overlap)
        if self.tiling is not None and facts.novelty:
            raise DefectError(
                f"--tile_size {self.tiling.size}: what counts as new to this checkpoint (--novelty) was learned from "
                "whole images; leave the tiles out, or calibrate with --no-novelty"
            )
        if rules is None and facts.rules is not None:
            rules = Rules.from_table(facts.rules, self.mask_classes, "rules of the model")
        self.rules = Rules.from_yaml(rules, self.mask_classes) if isinstance(rules, (str, Path)) else rules
        if self.rules is not None:
            self.rules.check_scale(mm_per_pixel)
        # What calibration says, its promise above all, is of the checkpoint's own limits on its own tiles.
        as_calibrated = threshold is None and self.tiling == Tiling.of(stored)
        as_calibrated = as_calibrated and not (self.rules is not None and self.rules.alone)
        self.calibration: dict[str, Any] | None = facts.calibration if as_calibrated else None
        self.mm_per_pixel, self.min_region_area = mm_per_pixel, min_region_area
        self.on_disagreement: OnDisagreement = on_disagreement
        self.decode_size = self.image_size if self.tiling is None else None  # tiles come from all of the image

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        device: str = "auto",
        *,
        engine: EngineName | None = None,
        mixed_precision: str = "auto",
        threads: int | None = None,
        backbone: str | None = None,
        dinov3_repo: Path | None = None,
        compile: bool = False,  # noqa: A002  torch's own word
        **options: Any,
    ) -> DefectPredictor:
        """Open a checkpoint (``.pth``) or an exported model (``.onnx``), as
        :func:`~dinov3.models.defect_engines.open_engine` does; other ``options`` are those of the class.

        Raises:
            DefectError: the file cannot be used, or the backbone is another one.
        """
        opened = open_engine(
            path,
            engine,
            device=device,
            precision=mixed_precision,
            threads=threads,
            backbone=backbone,
            dinov3_repo=dinov3_repo,
            compile=compile,
        )
        return cls(opened, **options)

    def __call__(self, image: Any) -> Prediction | list[Prediction]:
        if not isinstance(image, list):
            return self([image])[0]
        if not image:
            return []
        opened = [load_input(item, self.decode_size, self.white_level) for item in image]
        if self.tiling is not None:
            return [self.predict_tiles(one.pixels) for one in opened]
        images = np.stack([resize_image(one.pixels, self.image_size) for one in opened])
        return self.predict_batch(images, [one.size for one in opened])

    def predict_batch(self, images: np.ndarray, sizes: list[tuple[int, int]]) -> list[Prediction]:
        """Predict (B, h, w, 3) uint8 images that were resized from ``sizes`` (height, width)."""
        started = self.engine.start(images)
        return [self.finish(started, i, size) for i, size in enumerate(sizes)]

    def finish(self, started: Started, index: int, size: tuple[int, int]) -> Prediction:
        """What one image of a batch comes to, at its original ``size`` (height, width); for any thread."""
        output, seconds = started.wait()
        start, share = time.perf_counter(), seconds / len(output.class_prob)
        expect_finite(output.class_prob[index], output.mask_prob[index])
        class_prob = self.thresholds.calibrated(output.class_prob[index])
        found = self._enlarge(output.mask_prob[index], size)
        mask, regions = (np.zeros(size, np.uint8), []) if found is None else self._mask_and_regions(*found)
        seconds = share + time.perf_counter() - start
        novel = None
        if output.novelty is not None:
            beyond = output.novelty[index, 0]
            place = int(beyond.argmax())
            novel = NovelPlace.of(float(beyond.flat[place]), place, shape=self.image_size, size=size)
        embedding = None if output.embedding is None else output.embedding[index].copy()  # not all of the batch
        return self._prediction(class_prob, mask, regions, output.attention[index, 0], seconds, novel, embedding)

    def predict_tiles(self, image: np.ndarray, batch_size: int = 16) -> Prediction:
        """Predict an (H, W, 3) uint8 image of any size by ``batch_size`` tiles at a time."""
        return self.finish_tiles(self.run_tiles(image, batch_size))

    def run_tiles(self, image: np.ndarray, batch_size: int = 16) -> TilesOutput:
        """What the network says of an (H, W, 3) uint8 image, tile by tile."""
        start = time.perf_counter()

        def look(tiles: np.ndarray, corners: list[tuple[int, int]]) -> Started:
            return self.engine.start(tiles)

        output = slide_window(look, image, self.tiling, self.image_size, batch_size=batch_size)
        return TilesOutput(
            class_prob=self.thresholds.calibrated(output.class_prob),
            peak=output.mask_prob,
            channel=output.mask_channel,
            attention=output.attention,
            embedding=output.embedding,
            seconds=time.perf_counter() - start,
        )

    def finish_tiles(self, output: TilesOutput) -> Prediction:
        """What an image comes to; for any thread."""
        start = time.perf_counter()
        expect_finite(output.class_prob, output.peak)
        mask, regions = self._mask_and_regions(output.peak, output.channel)
        seconds = output.seconds + time.perf_counter() - start
        return self._prediction(output.class_prob, mask, regions, output.attention, seconds, None, output.embedding)

    def _enlarge(self, mask_prob: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """The strongest channel's probability (H, W) at ``size``, and which channel that is, of (S, h, w); channels
        that nowhere reach the mask threshold are skipped, and if all are, as in most clean images, there is None."""
        peak, channel = None, np.broadcast_to(np.uint8(0), size)
        for number, prob in enumerate(mask_prob):
            if prob.max() < self.thresholds.mask:  # nor does what is interpolated from it
                continue
            large = cv2.resize(prob, size[::-1], interpolation=cv2.INTER_LINEAR)
            if peak is None:
                peak, channel = large, np.full(size, number, np.uint8) if number else channel
            else:
                channel = np.where(large > peak, np.uint8(number), channel)
                np.maximum(peak, large, out=peak)
        return None if peak is None else (peak, channel)

    def _mask_and_regions(self, peak: np.ndarray, channel: np.ndarray) -> tuple[np.ndarray, list[Region]]:
        keep = None if self.rules is None else self.rules.keep(peak.shape)
        return find_regions(peak, channel, self.mask_classes, self.thresholds.mask, self.min_region_area, keep)

    def _prediction(
        self,
        class_prob: np.ndarray,
        mask: np.ndarray,
        regions: list[Region],
        attention: np.ndarray,
        seconds: float,
        novel: NovelPlace | None,
        embedding: np.ndarray | None,
    ) -> Prediction:
        defect_probability = float(1 - class_prob[0])
        outcome = None if self.rules is None else self.rules.apply(regions, mask, self.mm_per_pixel)
        decision = decide(defect_probability, self.thresholds, regions, outcome, self.on_disagreement, novel)
        index = 0 if decision.verdict == "accept" else int(class_prob[1:].argmax()) + 1
        return Prediction(
            verdict=decision.verdict,
            predicted_class=self.classes[index],
            probabilities={name: float(p) for name, p in zip(self.classes, class_prob, strict=True)},
            defect_probability=defect_probability,
            threshold=self.thresholds.classification,
            mask=mask,
            attention=attention,
            regions=regions,
            milliseconds=seconds * 1000,
            decided_by=decision.decided_by,
            disagrees=decision.disagrees,
            review_threshold=self.thresholds.review,
            novel=novel,
            embedding=embedding,
        )
