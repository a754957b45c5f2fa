"""What can be set for an inspection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinov3.defect_cli import (
    Fraction,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    PrecisionName,
    device_flag,
    engine_flag,
    flag,
    precision_flag,
    threads_flag,
)
from dinov3.inference.parts import PartFlags
from dinov3.inference.verdict import OnDisagreement
from dinov3.models.defect_engines import EngineName


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """What makes a predictor, for every command that inspects."""

    checkpoint: Path = flag(help=".pth file from train_defect_model.py, or .onnx from export_defect_model.py")
    backbone: str | None = flag(None, "to make sure: must be the one the checkpoint was trained with")
    dinov3_repo: Path | None = flag(None, "official checkout, if the model was trained on one")
    threshold: Fraction | None = flag(None, "defect probability from which on to reject (default: the checkpoint's)")
    mask_threshold: Fraction | None = flag(None, "mask probability from which on a pixel is defect (likewise)")
    rules: Path | None = flag(None, "YAML file of limits that defect regions must keep to")
    mm_per_pixel: PositiveFloat | None = flag(None, "size of a pixel: regions are measured in millimetres, too")
    min_region_area: NonNegativeInt = flag(0, "pixels; smaller regions are ignored (default 0)")
    on_disagreement: OnDisagreement = flag(
        "classifier",
        "what becomes of an image that the classifier accepts while its mask shows a defect (default: accepted)",
    )
    tile_size: NonNegativeInt | None = flag(
        None, "tiles whose longer side has so many pixels, 0: none (default: as trained)"
    )
    tile_overlap: Fraction | None = flag(None, "share of a tile's side that neighbours share (default: as trained)")
    batch_size: PositiveInt = flag(16, "images, or tiles of an image, at a time")
    num_workers: NonNegativeInt = flag(2, "threads that read images")
    compile: bool = flag(False, "compile the network first: worth it for thousands of images")
    mixed_precision: PrecisionName = precision_flag()
    engine: EngineName | None = engine_flag()
    threads: PositiveInt | None = threads_flag()
    device: str = device_flag()


@dataclass(frozen=True, kw_only=True)
class DriftFlags:
    """What new images are compared with."""

    drift_reference: Path | None = flag(
        None,
        "results folder of a time when all was well: is what comes in still like it? Or an evaluation's per_image.csv",
        group="drift",
    )
    false_alarm: OpenFraction = flag(0.01, "chance of an alarm although nothing has changed")


@dataclass(frozen=True, kw_only=True)
class InspectConfig(PredictorConfig, PartFlags, DriftFlags):
    """The flags of ``inference_defect_model.py``."""

    image: Path | None = flag(None, "one image file", either="input", group="what to inspect, and where to")
    image_dir: Path | None = flag(None, "folder of images, searched with its subfolders", either="input")
    output_dir: Path = flag(Path("results"), "where the results go")
    resume: bool = flag(False, "go on with a stopped inspection; needs the same flags and checkpoint")
    watch: bool = flag(False, "go on with what a camera writes into --image_dir, until Ctrl-C")
    no_visualize: bool = flag(False, "no pictures: faster")
    no_report: bool = flag(False, "no report.html")
    store: str | None = flag(None, "results database too: an SQLite file, or postgresql://user:password@host/database")
    store_days: PositiveFloat | None = flag(
        None, "days that images stay in --store if nobody decides them (default: all)"
    )
    store_mb: PositiveFloat | None = flag(
        None, "megabytes that --store may grow to: the oldest undecided images go then"
    )
    views_to_reject: PositiveInt | None = flag(
        None,
        "images of a part that must be rejected to reject it (default: as the model was calibrated, or 1)",
        group="parts",
    )
