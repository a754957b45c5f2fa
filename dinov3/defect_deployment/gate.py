"""The gate of an exported file: the whole way from image files to verdicts, against the checkpoint's own.

The reference is torch in float32 with the resize of training (torchvision's); the file is read back from disk and runs
on its engine behind the resize of inspection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
import onnx

from dinov3.data.defect_dataset import as_tensor
from dinov3.data.defect_images import read_for_size
from dinov3.data.defect_resize import resize_image
from dinov3.data.defect_tiles import Tiling, cut_tile
from dinov3.data.defect_transforms import eval_transform
from dinov3.defect_deployment.graph import expect_plain
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.thresholds import Thresholds
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_engines import Engine, EngineOutput
from dinov3.models.defect_facts import ModelFacts

BATCHES = (1, 2, 5)
MOST_CLASS, MOST_MASK = 1e-5, 2e-5  # differences of probabilities
MOST_NOVELTY = 1e-4  # of a deviation, as a share of it or, below 1, of 1
MOST_EMBEDDING = 1e-2  # 1 minus the cosine of the angle


@dataclass
class Agreement:
    """How far two ways to the same answers are apart.

    Attributes:
        images: how many were seen.
        crops: what the network saw of them: themselves, or their tiles.
        pixels: values of resized crops that differ.
        class_prob, mask_prob, attention, novelty, embedding: the largest differences; of novelty, relative, of
            embeddings, 1 minus the cosine of the angle between them.
        flips: images with another verdict.
    """

    images: int = 0
    crops: int = 0
    pixels: int = 0
    class_prob: float = 0.0
    mask_prob: float = 0.0
    attention: float = 0.0
    novelty: float = 0.0
    embedding: float = 0.0
    flips: int = 0

    def problems(self) -> list[str]:
        """What is beyond the limits of an exact export; empty if nothing is."""
        found = []
        if self.pixels:
            found.append(f"{self.pixels} values of resized images differ from training's resize; expected 0")
        limits = {"class_prob": MOST_CLASS, "mask_prob": MOST_MASK, "novelty": MOST_NOVELTY}
        for name, most in (limits | {"embedding": MOST_EMBEDDING}).items():
            value = getattr(self, name)
            if not value <= most:
                found.append(f"{name} differs by up to {value:.2g}; expected at most {most:g}")
        if self.flips:
            found.append(f"{self.flips} of {self.images} verdicts flip; expected none")
        return found

    def add(self, ours: EngineOutput, theirs: EngineOutput) -> None:
        """The differences of a batch of crops."""
        for name, a, b in zip(EngineOutput._fields, ours, theirs, strict=True):
            if a is None and b is None:
                continue
            if a is None or b is None or a.shape != b.shape:
                setattr(self, name, float("inf"))
                continue
            largest = float(_apart(name, a, b).max())  # NaN if there is one: in no limit
            old = getattr(self, name)
            setattr(self, name, largest if not largest <= old else old)


def _apart(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if name == "embedding":
        return 1 - (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.abs(a - b) / np.maximum(np.abs(a), 1) if name == "novelty" else np.abs(a - b)


def compare(reference: Engine, candidate: Engine, paths: Sequence[Path]) -> Agreement:
    """Run image files both ways, in batches of 1, 2 and 5 in turn; with fewer than 8 crops they come again.

    Args:
        reference: the checkpoint's network.
        candidate: the file's; its facts are its own.

    Raises:
        DefectError: none of the files can be read.
    """
    agreement, readable = Agreement(), []
    for batch in _batches(_crops(reference.facts, candidate.facts, paths, readable)):
        ours = np.stack([crop.training for crop in batch])
        theirs = np.stack([crop.inspection for crop in batch])
        agreement.pixels += int(np.count_nonzero(ours != theirs)) if ours.shape == theirs.shape else ours.size
        answers = [
            answer._replace(class_prob=calibrated_prob(answer.class_prob, engine.facts))
            for engine, answer in ((reference, reference.run(ours)), (candidate, candidate.run(theirs)))
        ]
        agreement.add(*answers)
        agreement.crops += len(batch)
    if not readable:
        raise DefectError("none of the images for the gate can be read; give a folder of images with --images")
    agreement.images = len(readable)
    # Verdicts from the file to the end: tiles joined, regions found, rules and what is new counted in.
    # A limit in millimetres is one of pixels here, on both sides.
    predict = [DefectPredictor(engine, mm_per_pixel=1.0) for engine in (reference, candidate)]
    agreement.flips = sum(predict[0](path).verdict != predict[1](path).verdict for path in readable)
    return agreement


def expect_exact(
    reference: Engine, candidate: Engine, path: Path, expected: ModelFacts, images: Sequence[Path]
) -> Agreement:
    """The gate of a file that computes in float32.

    Args:
        candidate: opened from ``path``.
        expected: what the file is to say of itself.

    Raises:
        DefectError: its graph, its facts or its answers are not as they should be; all that is wrong is named.
    """
    expect_plain(onnx.load(path, load_external_data=False), path)
    wrong = differing_facts(expected, candidate.facts)
    agreement = compare(reference, candidate, images)
    problems = [f"its metadata say another {name} than the checkpoint" for name in wrong] + agreement.problems()
    if problems:
        raise DefectError(
            "\n  ".join(
                [
                    f"{path.name} did not pass the gate on {agreement.images} images and was deleted; inspect with the "
                    f"checkpoint, or try another --engine than {candidate.name}:",
                    *problems,
                ]
            )
        )
    return agreement


def differing_facts(expected: ModelFacts, found: ModelFacts) -> list[str]:
    """The names of the facts in which two models differ."""
    return [one.name for one in fields(ModelFacts) if getattr(expected, one.name) != getattr(found, one.name)]


def calibrated_prob(class_prob: np.ndarray, facts: ModelFacts) -> np.ndarray:
    """(B, K) class probabilities at a model's temperature, from those at 1."""
    return thresholds_of(facts).calibrated(class_prob)


def thresholds_of(facts: ModelFacts) -> Thresholds:
    """A model's own limits."""
    return Thresholds.of(facts.to_table())


@dataclass(frozen=True)
class _Crop:
    """(H, W, 3) uint8 of an image, or of one of its tiles, at the network's size; both ways."""

    training: np.ndarray
    inspection: np.ndarray


def _crops(
    reference: ModelFacts, candidate: ModelFacts, paths: Sequence[Path], readable: list[Path]
) -> Iterator[_Crop]:
    """Of all files; those that could be read are added to ``readable``."""
    for path in paths:
        try:
            ours, theirs = read_crops(path, reference), read_crops(path, candidate)
        except DefectError as error:
            print(f"skipped: {error}")
            continue
        readable.append(path)
        for a, b in zip(ours, theirs, strict=True):
            yield _Crop(training_pixels(a, reference), inspection_pixels(b, candidate))


def read_crops(path: Path, facts: ModelFacts) -> list[np.ndarray]:
    """What a model sees of a file, not resized yet: the image (h, w, 3) uint8, or its tiles.

    Raises:
        ImageReadError: the file cannot be read.
    """
    tiling = Tiling.of(facts.to_table())
    if tiling is None:
        return [read_for_size(path, facts.image_size, facts.white_level)[0]]
    image = read_for_size(path, None, facts.white_level)[0]
    corners = product(*(row.starts() for row in tiling.grid(image.shape[:2])))
    return [np.ascontiguousarray(cut_tile(image, top, left, tiling.shape)) for top, left in corners]


def training_pixels(image: np.ndarray, facts: ModelFacts) -> np.ndarray:
    """(H, W, 3) uint8, resized as in training."""
    return np.ascontiguousarray(eval_transform(facts.image_size)(as_tensor(image).permute(2, 0, 1)).permute(1, 2, 0))


def inspection_pixels(image: np.ndarray, facts: ModelFacts) -> np.ndarray:
    """(H, W, 3) uint8, resized as in inspection."""
    return np.ascontiguousarray(resize_image(image, facts.image_size))


def _batches(crops: Iterable[_Crop]) -> Iterator[list[_Crop]]:
    """In batches of 1, 2 and 5 in turn; the first crops come again until each size was there."""
    first: list[_Crop] = []
    waiting: list[_Crop] = []
    number = 0
    for crop in crops:
        if len(first) < sum(BATCHES):
            first.append(crop)
        waiting.append(crop)
        if len(waiting) == BATCHES[number % len(BATCHES)]:
            yield waiting
            waiting, number = [], number + 1
    if waiting:
        yield waiting
        number += 1
    for size in BATCHES[number:] if first else ():
        yield [first[i % len(first)] for i in range(size)]
