"""What inspection must know of a model beside its weights: the same from a checkpoint and from an exported file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dinov3 import __version__
from dinov3.defect_errors import DefectError
from dinov3.defect_size import height_width
from dinov3.models.defect_field_checks import (
    FACTS,
    FLAG,
    LARGEST_IMAGE,
    OPTIONAL_FACTS,
    TABLE,
    TEXT,
    Check,
    check_table,
    check_thresholds,
    expect,
    is_pair,
)

METADATA_KEY = "dinov3_defect_model"  # of an exported file's metadata; its value is the text of ``to_json``
KIND = "dinov3-defect-model"
FORMAT_VERSION = 1
RESIZES = ("antialiased_bilinear_uint8",)  # dinov3.data.defect_resize
PRECISIONS = ("fp32", "bf16", "fp16", "int8")

_REQUIRED: dict[str, Check] = FACTS | {
    "image_size": (
        is_pair,
        f"height and width, whole numbers of pixels from 1 to {LARGEST_IMAGE}",
    ),
    "resize": (lambda value: value in RESIZES, f"one of {', '.join(RESIZES)}"),
    "precision": (lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
}
_OPTIONAL: dict[str, Check] = OPTIONAL_FACTS | {
    "novelty": FLAG,
    "rules": TABLE,
    "fingerprint": TEXT,
    "version": TEXT,
}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The facts about a model; each is checked when they are made.

    Attributes:
        classes: names of the K classes, the normal one first.
        mask_classes: names of the S mask channels.
        image_size: height and width in pixels that the network takes; images are resized to it.
        mean, std: per channel, of images scaled to 0..1.
        thresholds: ``classification``, ``mask`` and perhaps ``review`` and ``temperature``, as
            :class:`~dinov3.defect_evaluation.thresholds.Thresholds` explains them.
        backbone: its name.
        calibration: what calibration measured and promised, in the words of its record; None: never calibrated.
        resize: the way images are resized, one of ``RESIZES``.
        white_level: value of white in the 16-bit images it was trained on.
        tile_size, tile_overlap: the longer side of the tiles it was trained on, in pixels of the original, and what
            neighbours share of a side; size 0: none.
        flips: answers are the mean over an image's mirror images (inside the network).
        novelty: the network tells how unlike good parts each place is, and that counts in its class probabilities.
        rules: limits that images must keep to, the content of a rules file; None: none.
        precision: what the network computes in, one of ``PRECISIONS``.
        fingerprint: tells this model from all others: SHA-256 of the checkpoint's file; empty for one in memory.
        version: of this package, that wrote the facts.

    Raises:
        DefectError: a field holds what nothing here writes; it is named.
    """

    classes: tuple[str, ...]
    mask_classes: tuple[str, ...]
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    thresholds: dict[str, float]
    backbone: str
    calibration: dict[str, Any] | None = None
    resize: str = RESIZES[0]
    white_level: int = 65535
    tile_size: int = 0
    tile_overlap: float = 0.25
    flips: bool = False
    novelty: bool = False
    rules: dict[str, Any] | None = None
    precision: str = "fp32"
    fingerprint: str = ""
    version: str = field(default=__version__)

    def __post_init__(self) -> None:
        content = self.to_table()
        optional = {k: v for k, v in _OPTIONAL.items() if content.get(k) != ""}
        check_table(content, _REQUIRED, optional, "facts about the model")
        check_thresholds(self.thresholds, "facts about the model")

    @classmethod
    def of_checkpoint(cls, content: Mapping[str, Any], fingerprint: str = "") -> ModelFacts:
        """Those of a checkpoint's content, as ``load_checkpoint`` returns it."""
        known = {name: content.get(name) for name in ("calibration", "white_level", "tile_size", "tile_overlap")}
        return cls(
            classes=tuple(content["classes"]),
            mask_classes=tuple(content["mask_classes"]),
            image_size=height_width(content["image_size"]),
            mean=tuple(content["normalization"]["mean"]),
            std=tuple(content["normalization"]["std"]),
            thresholds=_without_none(content["thresholds"]),
            backbone=content["backbone"],
            flips=bool(content.get("flips")),
            novelty=content.get("novelty") is not None,
            fingerprint=fingerprint,
            **_without_none(known),
        )

    def to_table(self) -> dict[str, Any]:
        """As plain values, with the names that checkpoints use."""
        content = asdict(self)
        content["normalization"] = {"mean": list(content.pop("mean")), "std": list(content.pop("std"))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}

    def to_json(self) -> str:
        """A text that :meth:`from_json` reads."""
        return json.dumps({"kind": KIND, "format_version": FORMAT_VERSION} | self.to_table(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: Path | str) -> ModelFacts:
        """The facts in a text of :meth:`to_json`, found in ``source``.

        Raises:
            DefectError: no such text, of a newer format, or a field is missing, unknown or holds what nothing here
                writes; ``source`` and the field are named.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise DefectError(
                f"{source}: its facts about the model are no text of export_defect_model.py; export again"
            )
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise DefectError(f"{source}: format version {version!r}; this version reads {FORMAT_VERSION}; update")
        content = {name: value for name, value in content.items() if name not in ("kind", "format_version")}
        optional = {name: check for name, check in _OPTIONAL.items() if content.get(name) != ""}
        check_table(content, _REQUIRED, optional, source)
        check_thresholds(content["thresholds"], source)
        mean, std = (tuple(content["normalization"][name]) for name in ("mean", "std"))
        del content["normalization"]
        known = {one.name for one in fields(cls)}
        for name in content:
            expect((lambda value: value in known, "a field that this version knows"), name, f"field {name!r}", source)
        tuples = {name: tuple(content.pop(name)) for name in ("classes", "mask_classes", "image_size")}
        tables = {"thresholds": _without_none(content.pop("thresholds"))}
        return cls(mean=mean, std=std, **tuples, **tables, **_without_none(content))


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def fingerprint(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
