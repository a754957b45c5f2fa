"""What an inspection of files writes into the results database."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from dinov3.defect_station.store.inspected import Inspected, deciding_settings
from dinov3.defect_station.store.store import Store
from dinov3.inference.config import InspectConfig
from dinov3.inference.outputs import Finished
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_facts import fingerprint

SECONDS_PRUNED = 3600.0  # between two looks at what may be removed


class StoreSink:
    """Stores the images of one inspection, and removes old ones as the flags ask. Use as a context manager.

    Args:
        root: the folder that names are relative to.

    Raises:
        DefectError: of every method: the database cannot be used.
    """

    def __init__(self, config: InspectConfig, predictor: DefectPredictor, root: Path):
        limits = predictor.thresholds
        self.root, self.output_dir = Path(os.path.abspath(root)), Path(os.path.abspath(config.output_dir))
        self.max_days, self.max_mb = config.store_days, config.store_mb
        self.part_of = config.part_of()
        self.model = fingerprint(config.checkpoint)
        self.thresholds = {"classification": limits.classification, "review": limits.review, "mask": limits.mask}
        self.settings = deciding_settings(config, predictor)
        self.store = Store.open(config.store)
        self._prune()

    def __enter__(self) -> StoreSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.store.close()

    def write(self, images: Sequence[Finished]) -> None:
        """Store them; when this returns they are on the disk."""
        self.store.add(self._inspected(image) for image in images)
        if time.monotonic() - self._pruned > SECONDS_PRUNED:
            self._prune()

    def _inspected(self, image: Finished) -> Inspected:
        record = image.record
        mask = record.get("mask")
        return Inspected.of_record(
            record,
            content_hash=image.content_hash,
            part=None if self.part_of is None else self.part_of(record["image"]),
            model=self.model,
            thresholds=self.thresholds,
            settings=self.settings,
            embedding=image.embedding,
            image_path=_readable(self.root / record["image"]),
            mask_path=_readable(self.output_dir / mask) if mask else "",
        )

    def _prune(self) -> None:
        self.store.prune(max_days=self.max_days, max_bytes=None if self.max_mb is None else self.max_mb * 1e6)
        self._pruned = time.monotonic()


def _readable(path: Path) -> str:
    """A path whose bytes are no UTF-8, which no database could hold, in a form that one can read."""
    return os.fsencode(path).decode(errors="backslashreplace")
