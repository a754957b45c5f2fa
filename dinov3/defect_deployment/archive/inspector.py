"""What an actor does: open the model once, then inspect the images of one file of results after the other."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa

from dinov3.data.defect_images import ImageBytes, ImageReadError
from dinov3.defect_deployment.archive.config import ArchiveConfig
from dinov3.defect_deployment.archive.places import Place
from dinov3.defect_deployment.archive.results import name_of, results_table, to_parquet
from dinov3.defect_errors import DefectError
from dinov3.inference.inspection import open_predictor
from dinov3.inference.pipeline import FileReader, InputFile, predict_files
from dinov3.inference.prediction import Prediction
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.records import Record, failed_record, make_record


@dataclass(frozen=True)
class Work:
    """What every actor is told: the flags, where images are and results go, and the content of files by their flag."""

    config: ArchiveConfig
    images: Place
    output: Place
    content: dict[str, bytes]  # "checkpoint", and "rules" if there are any


class ArchiveReader:
    """Reads images as inspection does, wherever they are."""

    def __init__(self, place: Place, predictor: DefectPredictor):
        self.place, self.read = place, FileReader.of(predictor)

    def __call__(self, name: str) -> InputFile:
        shown = self.place.where(name)
        try:
            file = self.read(ImageBytes(shown, self.place.read(name)))
        except ImageReadError as error:
            return InputFile(name, error=str(error))
        return replace(file, path=name)


class Inspector:
    """Called with a table of one row, ``file`` (its number) and ``images`` (the names in it), inspects, writes the
    file, and returns a row of what was done: counts of verdicts and errors, and ``problem``, a user's mistake that ends
    the run.

    Args:
        work: a reference of Ray's to :class:`Work`.
    """

    def __init__(self, work: Any):
        import ray

        self.work: Work = ray.get(work)
        self.predictor: DefectPredictor | None = None
        cv2.setNumThreads(1)  # images are finished side by side

    def __call__(self, batch: pa.Table) -> pa.Table:
        number, names, problem, counts = batch["file"][0].as_py(), batch["images"][0].as_py(), "", Counter[str]()
        try:
            if self.predictor is None:
                self.predictor = open_sent(self.work)
            records = inspect(self.work, self.predictor, names)
            self.work.output.write(name_of(number), to_parquet(results_table(records, self.predictor.classes)))
            counts.update(record.get("verdict", "error") for record in records)
        except DefectError as error:
            problem = str(error)
        return pa.table({"file": [number], "images": [len(names)], "errors": [counts["error"]], "problem": [problem]})


def open_sent(work: Work) -> DefectPredictor:
    """The model as it was sent, so that all machines run the same, whatever lies on their disks.

    Raises:
        DefectError: it cannot be used; named as it was given.
    """
    config = work.config
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        given = {name: Path(getattr(config, name)) for name in work.content}
        sent = {name: Path(folder, f"{name}{path.suffix}") for name, path in given.items()}
        for name, path in sent.items():
            path.write_bytes(work.content[name])
        try:
            return open_predictor(replace(config, **sent, device=device_of(config), threads=threads_of(config)))
        except DefectError as error:
            text = str(error)
            for name, path in sent.items():
                text = text.replace(str(path), str(given[name]))
            raise DefectError(text) from None


def device_of(config: ArchiveConfig) -> str:
    """``auto`` is the GPU for actors that have one, and the CPU for others."""
    if config.device != "auto" or config.engine == "openvino":
        return config.device
    return "cuda" if config.gpus_per_actor else "cpu"


def threads_of(config: ArchiveConfig) -> int:
    """Of the network: the cores of an actor, if not told; the machine's others belong to other actors."""
    return config.threads or config.cpus_per_actor


def inspect(work: Work, predictor: DefectPredictor, names: list[str]) -> list[Record]:
    """The records of the images, in their order; of one that cannot be inspected, with its error."""
    config = work.config

    def record(name: str, result: Prediction | ImageReadError, _: Any) -> Record:
        if isinstance(result, ImageReadError):
            return failed_record(name, str(result))
        return make_record(name, result, config.mm_per_pixel)

    return list(
        predict_files(
            predictor,
            names,
            record,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            threads=config.cpus_per_actor,
            reader=ArchiveReader(work.images, predictor),
        )
    )
