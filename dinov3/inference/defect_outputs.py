"""Predictions to files: CSV, JSON, masks and pictures, written as they come."""

from __future__ import annotations

import csv
import errno
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from dinov3.data.defect_images import ImageReadError, write_mask
from dinov3.defect_errors import DefectError
from dinov3.inference.defect_predictor import Prediction
from dinov3.inference.defect_visualize import draw_panels


class OutputWriter:
    """Writes ``predictions.csv``, ``predictions.json``, ``errors.csv``, ``masks/`` and ``visualizations/``.

    Use as a context manager, :meth:`write` once per input. ``counts`` holds the number of each verdict and of
    ``error``.

    Raises:
        DefectError: the folder cannot be written.
    """

    def __init__(self, output_dir: Path, classes: list[str], visualize: bool = True):
        self.output_dir, self.classes, self.visualize = output_dir, classes, visualize
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> OutputWriter:
        columns = [
            "image",
            "verdict",
            "predicted_class",
            "defect_probability",
            *(f"prob_{c}" for c in self.classes),
        ]
        columns += ["threshold", "mask_area_fraction", "num_regions", "milliseconds", "error"]
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._table_file = (self.output_dir / "predictions.csv").open("w", newline="", encoding="utf-8")
            self._errors_file = (self.output_dir / "errors.csv").open("w", newline="", encoding="utf-8")
            self._json = (self.output_dir / "predictions.json").open("w", encoding="utf-8")
        except OSError as error:
            raise DefectError(f"--output_dir {self.output_dir}: cannot be written ({error.strerror})") from None
        self._table = csv.DictWriter(self._table_file, columns)
        self._table.writeheader()
        self._errors = csv.writer(self._errors_file)
        self._errors.writerow(["image", "error"])
        self._json.write("[")
        self._separator = "\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._json.write("\n]\n")
        for file in (self._table_file, self._errors_file, self._json):
            file.close()

    def write(self, name: str, result: Prediction | ImageReadError, display: np.ndarray | None) -> None:
        """Add one input.

        Args:
            name: its path relative to the input folder, ``/``-separated.
            result: the prediction, or why there is none.
            display: (h, w, 3) uint8 RGB copy for the picture.
        """
        if isinstance(result, Prediction):
            try:
                self._write_images(name, result, display)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                result = ImageReadError(f"{name}: file name too long, no room for the suffix of its mask; rename it")
        if isinstance(result, ImageReadError):
            self.counts["error"] += 1
            failed = {"image": name, "error": str(result)}
            self._table.writerow(failed)
            self._errors.writerow(failed.values())
            self._add_json(failed)
            return
        self.counts[result.verdict] += 1
        row = {
            "image": name,
            "verdict": result.verdict,
            "predicted_class": result.predicted_class,
            "defect_probability": round(result.defect_probability, 6),
            **{f"prob_{c}": round(p, 6) for c, p in result.probabilities.items()},
            "threshold": result.threshold,
            "mask_area_fraction": round(result.mask_area_fraction, 8),
            "num_regions": len(result.regions),
            "milliseconds": round(result.milliseconds, 2),
            "error": "",
        }
        self._table.writerow(row)
        self._add_json(row | {"regions": [asdict(region) for region in result.regions]})

    def _write_images(self, name: str, result: Prediction, display: np.ndarray | None) -> None:
        write_mask(self.output_dir / "masks" / f"{name}.png", result.mask)
        if self.visualize and display is not None:
            path = self.output_dir / "visualizations" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = cv2.cvtColor(draw_panels(display, result), cv2.COLOR_RGB2BGR)
            path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())  # imwrite fails on non-ASCII names on Windows

    def _add_json(self, row: dict[str, object]) -> None:
        self._json.write(self._separator + json.dumps(row, ensure_ascii=False))
        self._separator = ",\n"
