"""What in a dataset folder is a dataset's own, and so may be replaced with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from dinov3.data.defect_files import one_spelling
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.defect_errors import DefectError
from dinov3.defect_folders import LOCK, OWNER
from dinov3.defect_replace import is_leftover
from dinov3.defect_text import read_small

APPENDING = ".defect.appending.json"  # the files that an append is about to move in
OWN = {"dataset.json", "manifest.csv", "changes.csv", APPENDING, LOCK, OWNER}
OF_FILE_BROWSERS = {".DS_Store", "Thumbs.db", "desktop.ini"}
SHOWN = 3


def expect_own_dataset(folder: Path) -> None:
    """Refuse to replace a folder that is no dataset of this project, or holds files that are not the dataset's.

    Raises:
        DefectError: it is, or does; the first of these files are named.
    """
    remedy = "--overwrite replaces whole datasets alone; choose another folder, or remove it yourself"
    try:
        manifest = read_manifest(folder)
    except DefectError as error:
        raise DefectError(f"{folder}: holds other files than a dataset of this project ({error}); {remedy}") from None
    strange = list(strange_files(manifest))
    if strange:
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        raise DefectError(
            f"{folder}: {len(strange)} files in it belong to no row of its table: {', '.join(strange[:SHOWN])}{more}; "
            "--overwrite would remove them with the dataset: move them to another place, or choose another folder"
        )


def strange_files(manifest: Manifest) -> Iterator[str]:
    """Files in a dataset folder, relative to it, that no row names and no command of ours made."""
    named = _named(manifest) | {_key(name) for name in names_of_append(manifest.root)}
    for place, folders, files in os.walk(manifest.root):
        within = Path(place).relative_to(manifest.root)
        if within == Path():
            folders[:] = [name for name in folders if not is_leftover(name)]
            files = [name for name in files if name not in OWN]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*files, *links):
            path = (within / name).as_posix()
            if name not in OF_FILE_BROWSERS and _key(path) not in named:
                yield path


def note_append(root: Path, names: list[str]) -> None:
    """Say which files are about to be moved into a dataset folder, so that it is known whose they are after a kill."""
    with (root / APPENDING).open("w", encoding="utf-8") as file:
        json.dump(names, file)
        file.flush()
        os.fsync(file.fileno())


def names_of_append(root: Path) -> list[str]:
    """The files that an append was moving in when it was killed, relative to the folder; empty if none was."""
    try:
        names = json.loads(read_small(root / APPENDING))
    except (OSError, ValueError, RecursionError):  # killed before the first move
        return []
    inside = [PurePosixPath(name) for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [str(name) for name in inside if name.parts[:1] in (("images",), ("masks",)) and ".." not in name.parts]


def clear_append(manifest: Manifest) -> None:
    """Remove the files of a killed append that no row names."""
    named = _named(manifest)
    for name in names_of_append(manifest.root):
        if _key(name) not in named:
            (manifest.root / name).unlink(missing_ok=True)
    (manifest.root / APPENDING).unlink(missing_ok=True)


def _named(manifest: Manifest) -> set[str]:
    return {_key(name) for column in ("image", "mask") for name in manifest.columns[column].tolist() if name}


def _key(name: str) -> str:
    return one_spelling(str(PurePosixPath(name)))


def expect_outside(paths: Iterable[Path | None], output_dir: Path) -> None:
    """Refuse to write to a folder that what is read lies in.

    Raises:
        DefectError: one of ``paths`` does; it is named.
    """
    place = output_dir.resolve()
    inside = next((path for path in paths if path is not None and path.resolve().is_relative_to(place)), None)
    if inside:
        raise DefectError(f"{inside}: lies in --output_dir {output_dir}; choose another folder to write")
