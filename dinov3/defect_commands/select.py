"""Choose which inspected images to label next, and write them with the model's regions as annotations to correct.

python examples/select_defect_images.py --store results.sqlite --count 50 --output_dir to_label --format labelme
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinov3.defect_cli import Fraction, NonNegativeInt, PositiveInt, flag, make_parser, parse
from dinov3.defect_display import on_a_line
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_folder_kinds import expect_no_dataset
from dinov3.defect_station.candidates import Candidate, embeddings, from_results, from_store
from dinov3.defect_station.prelabel.folder import write_selection
from dinov3.defect_station.prelabel.formats import LabelFormat
from dinov3.defect_station.selection import RANDOM, Selection, select, thumbnails
from dinov3.inference.parts import PartFlags

if TYPE_CHECKING:
    from dinov3.defect_station.store import Store

EXIT_STATUS = "exit status: 0 written, 2 wrong usage, 1 any other problem"


@dataclass(frozen=True, kw_only=True)
class SelectConfig(PartFlags):
    """The flags of ``select_defect_images.py``."""

    store: str | None = flag(
        None, "results database: an SQLite file, or postgresql://...", either="source", group="what to choose from"
    )
    results: Path | None = flag(None, "or an inspection's output folder", either="source", metavar="DIR")
    model: str | None = flag(None, "of the database, images inspected by this model (its fingerprint)")
    since: str | None = flag(None, "of the database, images from this day on, such as 2026-01-31 (UTC)")
    count: PositiveInt = flag(50, "images to choose", group="how to choose")
    random_share: Fraction = flag(0.2, "share of them to draw at random, for an honest estimate of the miss rate")
    seed: NonNegativeInt = flag(0, "of the random ones")
    output_dir: Path = flag(Path("to_label"), "new folder for the images and their annotations", group="what to write")
    format: LabelFormat = flag("labelme", "of the annotations")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(SelectConfig, __doc__, epilog=EXIT_STATUS)


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, write, and say what was chosen."""
    parser = build_parser()
    config = parse(SelectConfig, parser, argv)
    if config.store is None and (config.model or config.since):
        parser.error("--model and --since need --store")
    expect_no_dataset(config.output_dir, "--output_dir")
    if config.output_dir.exists() and (not config.output_dir.is_dir() or any(config.output_dir.iterdir())):
        raise DefectError(
            f"--output_dir {config.output_dir}: not empty, and labels in it would be lost; choose a new one"
        )
    with open_store(config) as store:
        if store is None:
            candidates = from_results(config.results, config.part_of())
        else:
            candidates = from_store(store, config.part_of(), model=config.model, since=config.since)
        if not candidates:
            raise DefectError(f"{config.store or config.results}: no inspected images to choose from")

        def features(chosen: list[Candidate]) -> list[np.ndarray]:
            found = [] if store is None else embeddings(store, chosen)
            return found if len(found) == 1 and not np.isnan(found[0]).any() else [*found, thumbnails(chosen)]

        selection = select(candidates, config.count, config.random_share, config.seed, features)
    unwritten = write_selection(config.output_dir, selection, config.format)
    print_selection(config, selection, len(candidates), unwritten)
    return 0


def open_store(config: SelectConfig) -> AbstractContextManager[Store | None]:
    """The database, if there is one."""
    if config.store is None:
        return nullcontext()
    from dinov3.defect_station.store import Store

    return Store.open(config.store, must_exist=True)


def print_selection(config: SelectConfig, selection: Selection, available: int, unwritten: list[str]) -> None:
    """What was chosen, and what it is good for."""
    reasons = Counter(chosen.reason for chosen in selection.chosen)
    told = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    print(f"{len(selection.chosen)} of {available} images: {told or 'none'}")
    if len(selection.chosen) < config.count:
        print(
            f"no more: all others are gone, of a part that was chosen, or near-duplicates ({config.count} were wanted)"
        )
    if reasons[RANDOM]:
        print(
            f"the {reasons[RANDOM]} random ones: a part each of {selection.parts}, all with the same chance; estimate "
            "the miss rate from these alone"
        )
    if selection.missing:
        print(
            on_a_line(
                f"{len(selection.missing)} images are gone or were overwritten since, such as {selection.missing[0]}"
            )
        )
    for problem in unwritten:
        print(on_a_line(problem))
    print(f"written to {config.output_dir}: images/, annotations ({config.format}), selection.csv")


def console() -> None:
    """The command ``defect-select``."""
    run_script(main)
