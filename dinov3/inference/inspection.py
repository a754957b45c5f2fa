"""A whole inspection of files: what to inspect, the model, where the results go, and how it ends or goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from dinov3.data.defect_files import list_images
from dinov3.data.defect_images import ImageReadError
from dinov3.defect_display import on_a_line
from dinov3.defect_errors import DefectError, StoppedError
from dinov3.defect_interrupts import StopSignals
from dinov3.inference.config import InspectConfig, PredictorConfig
from dinov3.inference.outputs import Finished, Listener, OutputWriter, Sink
from dinov3.inference.parts import Parts, calibrated_views
from dinov3.inference.pipeline import predict_files
from dinov3.inference.prediction import Prediction
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.reports.inspection import ReportWriter
from dinov3.inference.resume import check_same_run, describe_run, start_run
from dinov3.inference.watch import FolderWatcher, watch


class Inputs(NamedTuple):
    """What there is to inspect."""

    root: Path  # the folder that names are relative to
    paths: list[Path]


def find_inputs(config: InspectConfig) -> Inputs:
    """The image files; of a folder that is watched, none yet.

    Raises:
        DefectError: there are none, or the results would lie among them.
    """
    output = config.output_dir.resolve()
    replaced = [output / "masks", output / "visualizations"]
    if config.image is not None:
        if not config.image.is_file():
            raise DefectError(f"--image {config.image}: no such file")
        if any(config.image.resolve().is_relative_to(place) for place in replaced):
            raise DefectError(
                f"--image {config.image}: a mask or picture in --output_dir {config.output_dir}, where earlier results "
                "are replaced; choose another --output_dir"
            )
        return Inputs(config.image.parent, [config.image])
    folder = config.image_dir.resolve()
    if folder == output or any(folder.is_relative_to(place) for place in replaced):
        raise DefectError(
            f"--output_dir {config.output_dir}: masks and pictures would lie among the images of --image_dir "
            f"{config.image_dir}; choose another folder, or one below it such as {config.image_dir / 'results'}"
        )
    if config.watch:
        if not config.image_dir.is_dir():
            raise DefectError(f"--image_dir {config.image_dir}: no such folder to watch; make it first")
        return Inputs(config.image_dir, [])
    paths = list_images(config.image_dir)
    if output.is_relative_to(folder):
        results = config.image_dir / output.relative_to(folder)  # spelled as the files are: with .. and through links
        paths = [p for p in paths if not p.is_relative_to(results)]
    if not paths:
        raise DefectError(f"--image_dir {config.image_dir}: no images in it; expected files such as .jpg or .png")
    return Inputs(config.image_dir, paths)


def open_predictor(config: PredictorConfig) -> DefectPredictor:
    """The checkpoint's model, with what the flags ask for."""
    return DefectPredictor.from_checkpoint(
        config.checkpoint,
        config.device,
        backbone=config.backbone,
        dinov3_repo=config.dinov3_repo,
        mixed_precision=config.mixed_precision,
        threshold=config.threshold,
        mask_threshold=config.mask_threshold,
        tile_size=config.tile_size,
        tile_overlap=config.tile_overlap,
        rules=config.rules,
        mm_per_pixel=config.mm_per_pixel,
        min_region_area=config.min_region_area,
        on_disagreement=config.on_disagreement,
        compile=config.compile,
        engine=config.engine,
        threads=config.threads,
    )


class DriftTest(Listener, Protocol):
    """Compares images with a reference, such as :class:`~dinov3.defect_station.drift.RecordsTest`."""

    def state(self) -> dict[str, Any]:
        """Where it is, for the report."""


def open_writer(
    config: InspectConfig, predictor: DefectPredictor, sink: Sink | None = None, drift: DriftTest | None = None
) -> OutputWriter:
    """Where the results go, and into ``sink``: behind those of the run that is gone on with, or in place of an earlier
    run's.

    Raises:
        DefectError: the folder cannot be written, or holds the results of another run.
    """
    run = describe_run(config)
    resume = config.resume and check_same_run(config.output_dir, run)
    if not resume:
        start_run(config.output_dir, run)
    part_of = config.part_of()
    writer = OutputWriter(
        config.output_dir,
        predictor.classes,
        visualize=not config.no_visualize,
        mm_per_pixel=config.mm_per_pixel,
        resume=resume,
        parts=None
        if part_of is None
        else Parts(part_of, config.views_to_reject or calibrated_views(predictor.calibration) or 1),
        sink=sink,
        drift=drift,
    )
    if not config.no_report:
        writer.observer = ReportWriter(
            config.output_dir / "report.html",
            classes=predictor.classes,
            thresholds=predictor.thresholds,
            calibration=predictor.calibration,
            checkpoint=str(config.checkpoint),
            source=str(config.image or config.image_dir),
            panels=not config.no_visualize,
            drift=None if drift is None else drift.state,
            drift_reference=str(config.drift_reference),
            done=(stored.record for stored in writer.stored()) if resume else (),
        )
    return writer


class Inspection:
    """One run: what to inspect with, and where the results go."""

    def __init__(
        self, config: InspectConfig, root: Path, predictor: DefectPredictor, writer: OutputWriter, signals: StopSignals
    ):
        self.config, self.root, self.predictor, self.writer, self.signals = config, root, predictor, writer, signals

    def run(self, paths: list[Path]) -> None:
        """Inspect files that are not done yet.

        Raises:
            StoppedError: a signal came first.
        """
        total, done, size = len(paths), self.writer.done, self.config.batch_size
        if done:
            # Whole batches of the whole list, so that each image has the same neighbours as in a run of one piece.
            batches = (paths[start : start + size] for start in range(0, total, size))
            paths = [p for batch in batches if any(self._name(p) not in done for p in batch) for p in batch]
            print(f"{len(done)} images were inspected before; going on")
        with closing(self._results(paths)) as results:
            progress = tqdm(results, total=total, initial=total - len(paths), desc="inspect", unit="image")
            for _, image in progress:
                if image.record["image"] not in done:
                    self.writer.add(image)
                if self.signals.received:
                    break
        if self.signals.received:
            finished = sum(self.writer.counts.values())
            raise StoppedError(
                f"stopped after {finished} of {total} images; add --resume to the same command to go on",
                self.signals.received,
            )

    def run_watching(self) -> None:
        """Inspect what comes until a signal does."""
        watcher = FolderWatcher(self.root, done=self.writer.done, skip=self.config.output_dir)
        print(f"watching {self.root}; Ctrl-C ends", flush=True)
        for ready in watch(watcher, lambda: bool(self.signals.received)):
            with closing(self._results(ready)) as results:
                for path, image in results:
                    if watcher.finish(path, readable=not image.record["error"]):
                        self.writer.add(image)
                        record = image.record
                        print(on_a_line(f"{record['image']}: {record['error'] or record['verdict']}"), flush=True)
                    if self.signals.received:
                        break
            self.writer.flush()

    def _results(self, paths: list[Path]) -> Iterator[tuple[Path, Finished]]:
        def write(path: Path, result: Prediction | ImageReadError, display: np.ndarray | None) -> tuple[Path, Finished]:
            return path, self.writer.write_images(self._name(path), result, display, path)

        return predict_files(
            self.predictor,
            paths,
            write,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            display=self.writer.needs_display,
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
