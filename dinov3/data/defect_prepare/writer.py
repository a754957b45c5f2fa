"""Writing a dataset folder."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3.data.defect_manifest import COLUMNS, FORMAT, FORMAT_VERSION, Manifest, count_rows, read_manifest
from dinov3.data.defect_masks import write_mask
from dinov3.data.defect_prepare.ownership import expect_own_dataset
from dinov3.defect_errors import DefectError
from dinov3.defect_folders import FolderLock
from dinov3.defect_replace import UnfinishedFolder, remove_leftovers, restore


class DatasetWriter:
    """Writes a dataset folder in one go: it appears whole under its name, or not at all.

    Use as a context manager; call :meth:`add` per image and :meth:`finish` at the end. Everything goes to a
    temporary folder beside ``output_dir``, which is renamed by ``finish`` and removed on an error. Of a link, that is
    beside its target.

    Raises:
        DefectError: ``output_dir`` exists and is not empty (and ``overwrite`` is off, or it holds anything but a
            dataset), is in use by another command, cannot be replaced by another folder, or cannot be written.
    """

    def __init__(self, output_dir: Path | str, overwrite: bool = False):
        self.output_dir, self.overwrite = Path(output_dir), overwrite
        self.place = Path(os.path.realpath(output_dir))  # renaming a link would move the link, not the data
        self.workplace = self.place.parent
        self.rows: list[dict[str, str]] = []
        self.white_level: int | None = None  # of 16-bit images, if there are any
        self._replaced: FolderLock | None = None  # on the dataset that this one is to replace
        restore(self.place)
        self._expect_free()

    def _expect_free(self) -> None:
        if not self.output_dir.exists():
            return
        if not self.output_dir.is_dir():
            raise DefectError(f"{self.output_dir}: a file; --output_dir expects a folder")
        _expect_replaceable(self.output_dir, self.place)
        if any(self.output_dir.iterdir()):
            if not self.overwrite:
                raise DefectError(f"{self.output_dir}: exists and is not empty; choose another or add --overwrite")
            expect_own_dataset(self.output_dir)

    def __enter__(self) -> DatasetWriter:
        try:
            self.workplace.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.place, self.workplace)
            self._lock_replaced()
            self._unfinished = UnfinishedFolder(self.place, self.workplace, "prepare_defect_data.py")
        except OSError as error:
            raise DefectError(
                f"{self.output_dir}: cannot be written ({error.strerror}); choose another folder"
            ) from None
        self.folder = self._unfinished.path
        return self

    def _lock_replaced(self) -> None:
        if self.place.is_dir() and any(self.place.iterdir()):
            self._replaced = FolderLock(self.place, "prepare_defect_data.py --overwrite").__enter__()

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._unfinished.remove()
        if self._replaced is not None:
            self._replaced.release()
        if isinstance(error, OSError):
            reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            raise DefectError(f"{self.output_dir}: cannot be written ({reason}); nothing was kept") from None

    def add(
        self,
        image: Path | np.ndarray,
        name: str,
        mask: np.ndarray | None,
        *,
        label: str,
        split: str,
        group: str,
        source: str,
        link: bool = False,
    ) -> None:
        """Add one image.

        Args:
            image: a file, copied (or linked) as it is, or (H, W, 3) uint8 RGB, saved as PNG.
            name: path below ``images/``, ``/``-separated; its mask becomes ``masks/NAME.png``.
            mask: (H, W) uint8 class indices, or None.
            label, split, group, source: the manifest's columns.
            link: make a symbolic link to ``image`` instead of a copy.
        """
        target = self.folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, np.ndarray):
            Image.fromarray(image).save(target)
        elif link:
            os.symlink(image.resolve(), target)
        else:
            shutil.copyfile(image, target)
        mask_name = ""
        if mask is not None:
            mask_name = f"masks/{name}.png"
            write_mask(self.folder / mask_name, mask)
        row = {"image": f"images/{name}", "mask": mask_name, "label": label, "split": split, "group": group}
        self.rows.append(row | {"source": source})

    def finish(self, *, classes: list[str], mask_classes: list[str], seed: int, command: str) -> Manifest:
        """Write ``manifest.csv`` and ``dataset.json``, move the folder to its name, and open it."""
        with (self.folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        info = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "classes": classes,
            "mask_classes": mask_classes,
            "seed": seed,
        }
        if self.white_level is not None:
            info["white_level"] = self.white_level
        info["command"] = command
        info["counts"] = count_rows(self.rows, classes)
        (self.folder / "dataset.json").write_text(json.dumps(info, indent=2, ensure_ascii=False), encoding="utf-8")
        self._expect_free()  # others may have written there meanwhile
        self._unfinished.move(self._replaced)
        return read_manifest(self.output_dir)


def _expect_replaceable(folder: Path, place: Path) -> None:
    """Raise DefectError for a folder that cannot be renamed; what it is really is ``place``."""
    here = Path(os.path.realpath(os.curdir))
    if os.path.ismount(place):
        what = "a mount point"
    elif place in (here, *here.parents):
        what = "the current folder" if place == here else "the current folder lies in it"
    else:
        return
    raise DefectError(
        f"{folder}: {what}, and --output_dir is put in its place as a whole; choose a folder in it, such as "
        f"{folder / 'dataset'}"
    )
