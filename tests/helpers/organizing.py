"""What the tests of prepare_defect_data.py share: made-up folders of images and masks, and a look at the outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import square_image
from PIL import Image

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_masks import read_mask

SIZE = 32


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def mask_of(number: int) -> np.ndarray:
    """A mask of 0 and 255 that no other number has."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[number : number + 3, 2 * (number % 10) : 2 * (number % 10) + 5] = 255
    return mask


def picture(number: int) -> np.ndarray:
    return square_image(np.random.default_rng(number), defect=False, size=SIZE)[0]


def write_parts(root: Path) -> Path:
    """Ten defect images in bad/, their masks in masks/, twenty normal images in good/."""
    for i in range(10):
        save(root / "bad" / f"{i:02}.png", picture(i))
        save(root / "masks" / f"{i:02}.png", mask_of(i))
    for i in range(20):
        save(root / "good" / f"{i:02}.png", picture(100 + i))
    return root


def arguments(root: Path, *flags: object, bad="bad", masks="masks", good="good", output="out") -> list[str]:
    """The command line of organize for folders below ``root``; several folders are parted by spaces."""
    line = ["organize", "--output_dir", root / output]
    for flag, folders in (("--defect_images", bad), ("--defect_masks", masks), ("--normal_images", good)):
        if folders:
            line += [flag, *(root / folder for folder in folders.split())]
    return [str(item) for item in [*line, *flags]]


def organizer(script: Callable[..., tuple[int, str, str]], root: Path) -> Callable[..., tuple[Manifest, str]]:
    """A function that runs organize with the arguments of :func:`arguments`: -> manifest, what was printed."""

    def run(*flags: object, **folders: str) -> tuple[Manifest, str]:
        status, out, err = script("prepare_defect_data", *arguments(root, *flags, **folders))
        assert status == 0, err
        return read_manifest(root / "out"), out

    return run


def assert_refused(result: tuple[int, str, str], *texts: str, status: int = 1) -> None:
    """One clear message and no stack trace."""
    found, _, err = result
    assert found == status, err
    assert "Traceback" not in err
    assert err.count("error: ") == 1
    for text in texts:
        assert text in err


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def masks_by_image(manifest: Manifest) -> dict[str, np.ndarray | None]:
    rows = zip(manifest.columns["image"].tolist(), manifest.columns["mask"].tolist(), strict=True)
    return {image: read_mask(manifest.root / mask) if mask else None for image, mask in rows}
