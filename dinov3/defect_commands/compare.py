"""Compare two models on the same images: which verdicts differ, with pictures, and whether the new one is better.

python examples/compare_defect_models.py --old export/old.onnx --new export/new.onnx --data_root data/demo
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinov3.defect_cli import (
    NonNegativeInt,
    PositiveInt,
    PrecisionName,
    device_flag,
    engine_flag,
    flag,
    make_parser,
    parse,
    precision_flag,
    threads_flag,
)
from dinov3.defect_display import on_a_line
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_evaluation.scoring import read_split
from dinov3.defect_station.compare import Comparison, answers_of, compare
from dinov3.defect_station.compare_images import Images, of_folder, of_split, of_store
from dinov3.defect_station.compare_report import Model, expect_own_comparison, write_comparison
from dinov3.inference.parts import PartFlags
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_engines import EngineName

EXIT_STATUS = (
    "exit status: 0 compared, 1 with --no_new_misses if the new model misses a defect that the old one found, or any "
    "problem, 2 wrong usage"
)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(PartFlags):
    """The flags of ``compare_defect_models.py``."""

    old: Path = flag(help="model in use: .pth or .onnx", group="what to compare, and on what")
    new: Path = flag(help="model that may take its place")
    data_root: Path | None = flag(None, "dataset folder: labelled images", either="on")
    images: Path | None = flag(None, "or a folder of images without labels", either="on", metavar="DIR")
    store: str | None = flag(
        None, "or a results database, SQLite file or postgresql://...: what people decided are the labels", either="on"
    )
    split: Literal["train", "val", "test"] = flag("test", "of --data_root")
    since: str | None = flag(None, "of the database, images from this day on, such as 2026-01-31 (UTC)")
    verdict: Literal["accept", "review", "reject"] | None = flag(None, "of the database, images with this verdict")
    decided: bool = flag(False, "of the database, images that a person decided")
    output_dir: Path = flag(Path("comparison"), "for report.html, comparison.json and flips.csv")
    no_new_misses: bool = flag(False, "exit with status 1 if the new model misses a defect that the old one found")
    resamples: NonNegativeInt = flag(1000, "of the bootstrap; 0: no intervals", group="how")
    batch_size: PositiveInt = flag(16, "images, or tiles of an image, at a time")
    num_workers: NonNegativeInt = flag(2, "threads that read images")
    dinov3_repo: Path | None = flag(None, "official checkout, if a model was trained on one")
    mixed_precision: PrecisionName = precision_flag()
    engine: EngineName | None = engine_flag()
    threads: PositiveInt | None = threads_flag()
    device: str = device_flag()


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(CompareConfig, __doc__, epilog=EXIT_STATUS)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, write the report, and say what came out."""
    parser = build_parser()
    config = parse(CompareConfig, parser, argv)
    if config.no_new_misses and config.images is not None:
        parser.error("--no_new_misses needs --data_root or --store: without labels nobody knows what is missed")
    if config.data_root is not None and (config.part_csv or config.part_regex):
        parser.error("--part_csv and --part_regex are not for --data_root: a dataset tells the parts itself")
    if config.store is None and (config.since or config.verdict or config.decided):
        parser.error("--since, --verdict and --decided need --store")
    expect_own_comparison(config.output_dir)
    predictors = [open_model(path, config) for path in (config.old, config.new)]
    images = read_images(config, predictors)
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DefectError(f"--output_dir {config.output_dir}: cannot be written ({error.strerror})") from None
    speed = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    old, new = (
        Model(path, predictor, answers_of(predictor, images.paths, description=name, **speed))
        for name, path, predictor in zip(("old", "new"), (config.old, config.new), predictors, strict=True)
    )
    comparison = compare(old.answers, new.answers, images.labels, images.parts, config.resamples)
    write_comparison(
        config.output_dir,
        comparison,
        old,
        new,
        images.paths,
        images.names,
        images.classes,
        images.parts.tolist(),
        images.source,
        decided=config.store is not None,
    )
    print_comparison(config, comparison, old, new, images)
    return int(config.no_new_misses and bool(comparison.new_misses))


def open_model(path: Path, config: CompareConfig) -> DefectPredictor:
    """One of the models, with its own thresholds."""
    exported = path.suffix.lower() == ".onnx"  # the flags of one engine are not for a model of the other kind
    return DefectPredictor.from_checkpoint(
        path,
        config.device,
        engine=config.engine if exported != (config.engine == "torch") else None,
        mixed_precision="auto" if exported else config.mixed_precision,
        threads=config.threads,
        dinov3_repo=config.dinov3_repo,
    )


def read_images(config: CompareConfig, predictors: list[DefectPredictor]) -> Images:
    """The rows of the split, the files of the folder, or the images of the database.

    Raises:
        DefectError: there are none, or a model has other classes than the dataset.
    """
    if config.data_root is not None:
        for predictor, path in zip(predictors, (config.old, config.new), strict=True):
            rows = read_split(predictor.engine.facts, path, config.data_root, config.split)
        return of_split(rows, f"{config.data_root} ({config.split})")
    if config.images is not None:
        return of_folder(config.images, config.part_of())
    from dinov3.defect_station.store import Store

    with Store.open(config.store, must_exist=True) as store:
        filters = {"since": config.since, "verdict": config.verdict, "decided": config.decided}
        images = of_store(store, config.part_of(), normal=predictors[0].classes[0], **filters)
    if config.no_new_misses and not (images.labels > 0).any():
        raise DefectError(
            f"--no_new_misses: of these images of {images.source} nobody rejected any, so that none is known to be "
            "missed; review some first"
        )
    return images


def print_comparison(config: CompareConfig, comparison: Comparison, old: Model, new: Model, images: Images) -> None:
    """The figures, and where the rest is."""
    flips = len(comparison.flips)
    print(f"{comparison.inspected} of {len(images.paths)} images inspected by both: {flips} verdicts differ")
    if config.store is not None:
        decided = int((images.labels >= 0).sum())
        print(f"{decided} of them were decided by people, and are what the figures below speak of, not the whole line")
        if images.gone:
            print(on_a_line(f"{len(images.gone)} images are gone or were overwritten since, such as {images.gone[0]}"))
    for name, (before, after, difference) in comparison.metrics.items():
        print(f"  {name:<13} old {before:.4f}  new {after:.4f}  difference {difference}")
    for name, test in comparison.tests.items():
        total = comparison.defective if name == "miss" else comparison.good
        print(f"  {name:<13} of {total} parts: {test.old_alone} old alone, {test.new_alone} new alone, p {test.p:.3g}")
    print(f"  speed         old {old.answers.milliseconds:.1f} ms, new {new.answers.milliseconds:.1f} ms per image")
    if comparison.new_misses:
        misses = [images.names[flip.place] for flip in comparison.new_misses]
        print(f"the new model misses {len(misses)} images with a defect that the old one found, such as {misses[0]}")
    print(f"{os.path.join(config.output_dir, 'report.html')}: each of them with both masks")


def console() -> None:
    """The command ``defect-compare``."""
    run_script(main)
