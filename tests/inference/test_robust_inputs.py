"""Every kind of file that people put into a folder: the good ones get results, the bad ones a row with the reason."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.inspecting import FLAGS, records_of, rows_of, write_images
from helpers.odd_files import BAD, GOOD, GREY, SHAPE
from PIL import Image

import dinov3.inference.pipeline as pipeline
from dinov3.data.defect_files import list_images
from dinov3.data.defect_images import ImageReadError, read_for_size
from dinov3.data.defect_masks import read_mask
from dinov3.defect_display import spreadsheet_cell
from dinov3.inference.pipeline import predict_files
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_checkpoint import load_checkpoint


@pytest.fixture
def inspect(tiny: Path, tmp_path: Path, script):
    """Runs the script on a folder: -> status, stdout."""

    def run(folder: Path, *flags: object, output: str = "out") -> tuple[int, str]:
        flags = (*FLAGS, *flags) if "--num_workers" not in flags else ("--device", "cpu", *flags)
        status, out, err = script(
            "inference_defect_model", "--checkpoint", tiny, "--image_dir", folder,
            "--output_dir", tmp_path / output, "--no_visualize", *flags,
        )  # fmt: skip
        assert "Traceback" not in err
        return status, out

    return run


def test_every_kind_of_file(tmp_path: Path, inspect) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, make in GOOD.items():
        (folder / name).write_bytes(make())
    for name, (make, _) in BAD.items():
        (folder / name).write_bytes(make())
    status, out = inspect(folder)
    rows, errors = rows_of(tmp_path / "out"), rows_of(tmp_path / "out", "errors.csv")
    assert status == 3 and f"{len(BAD)} not readable" in out
    assert set(rows) == {*GOOD, *BAD} and set(errors) == set(BAD)
    for name in GOOD:
        assert rows[name]["error"] == "" and rows[name]["verdict"] in ("accept", "reject"), rows[name]
        expected = {"one pixel.png": (1, 1), "a line.png": (1, 3000)}.get(name, SHAPE)
        assert read_mask(tmp_path / "out/masks" / f"{name}.png").shape == expected
    for name, (_, reason) in BAD.items():
        assert reason in rows[name]["error"] and name in rows[name]["error"] and rows[name]["verdict"] == ""
        assert errors[name]["error"] == rows[name]["error"]
    assert {r["image"]: r["error"] for r in records_of(tmp_path / "out")} == {n: r["error"] for n, r in rows.items()}


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("pipeline.shrink", cv2.error("dsize is wrong")),
        ("pipeline.resize_image", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        ("predictor.find_regions", MemoryError("Unable to allocate 9 TiB")),
        ("outputs.write_mask", cv2.error("insufficient memory")),
        ("predictor.slide_window", MemoryError("Unable to allocate 9 TiB")),
    ],
)
def test_an_image_beyond_what_can_be_done_is_a_row(tmp_path: Path, inspect, monkeypatch, step: str, error) -> None:
    """Whichever step has no memory for it, or cannot do its shape: the others get their verdicts."""
    write_images(tmp_path / "in", 4)
    noise = np.random.default_rng(1).integers(0, 256, (17, 31), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in/odd.png")
    place, name = step.split(".")
    module = importlib.import_module(f"dinov3.inference.{place}")
    done = getattr(module, name)

    def fails_for_odd(*args: object, **options: object) -> object:
        if any(getattr(value, "shape", ())[:2] in ((17, 31), (31, 17)) for value in args):
            raise error
        return done(*args, **options)

    monkeypatch.setattr(module, name, fails_for_odd)
    flags = ("--tile_size", 24) if name == "slide_window" else ("--mask_threshold", 0.001)  # something is marked
    status, _ = inspect(tmp_path / "in", *flags)
    rows = rows_of(tmp_path / "out")
    assert status == 3 and len(rows) == 5
    assert [name for name, row in rows.items() if row["error"]] == ["odd.png"]
    assert str(error)[:20] in rows["odd.png"]["error"] and rows["odd.png"]["verdict"] == ""


def test_links_folders_and_pipes(tmp_path: Path, inspect) -> None:
    folder = tmp_path / "in"
    write_images(folder / "a.jpg", 1)  # a folder that is called like an image
    write_images(folder, 1)
    os.symlink("0000.png", folder / "good link.png")
    os.symlink("nowhere.png", folder / "dangling.png")
    os.symlink("loop b.png", folder / "loop a.png")
    os.symlink("loop a.png", folder / "loop b.png")
    os.symlink("..", folder / "a.jpg" / "up")
    os.symlink("a.jpg", folder / "folder.png")
    os.mkfifo(folder / "pipe.png")  # reading it would never end
    status, _ = inspect(folder)
    errors = {name: row["error"] for name, row in rows_of(tmp_path / "out").items()}
    reasons = {
        "0000.png": "", "a.jpg/0000.png": "", "good link.png": "", "dangling.png": "a link to nowhere",
        "loop a.png": "leads in a circle", "loop b.png": "leads in a circle", "folder.png": "a folder, not an image",
    }  # fmt: skip
    assert status == 3 and set(errors) == set(reasons)
    for name, reason in reasons.items():
        assert (reason in errors[name]) if reason else not errors[name]


NAMES = [
    "with space.png", " led and trailed .png", "new\nline.png", "car\rriage.png", "'single'.png", '"double".png',
    "comma,semi;colon.png", "back\\slash.png", "%s {x} $HOME.png", "表面缺陷.png", "😀 emoji.png", "é.png",
    "e\u0301.png", "-flag.png", "=1+1.png", "n" * 251 + ".png", "n" * 250 + "m.png", "表" * 83 + "ab.png", "a.b.c.png",
    "same.png", "same.jpg", "same.bmp", "same.png.png", "line1/same.png", "line2/same.png", "line1_same.png",
]  # fmt: skip


def test_names_of_every_kind_get_results_that_do_not_collide(tmp_path: Path, inspect) -> None:
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    sizes = {}
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sizes[name] = (20 + number, 30)
        image = Image.fromarray(rng.integers(0, 256, sizes[name], dtype=np.uint8))
        try:
            image.save(folder / name)
        except OSError as error:
            pytest.skip(f"this file system does not take the name {name!r}: {error}")
    assert inspect(folder)[0] == 0
    assert set(rows_of(tmp_path / "out")) == set(map(spreadsheet_cell, NAMES))
    assert {record["image"] for record in records_of(tmp_path / "out")} == set(NAMES)
    masks = {record["image"]: record["mask"] for record in records_of(tmp_path / "out")}
    assert len(set(masks.values())) == len(NAMES)
    for name, size in sizes.items():  # each image's own: no two have the same height
        assert read_mask(tmp_path / "out" / masks[name]).shape == size


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """As a user who may not read everything; root becomes nobody for the time."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_files_and_folders_without_permission(outside: Path, tiny: Path) -> None:
    write_images(outside, 2)
    write_images(outside / "locked", 1)
    (outside / "0001.png").chmod(0)
    (outside / "locked").chmod(0)
    predictor = DefectPredictor.from_checkpoint(tiny, device="cpu")
    predictor(GREY)  # whatever is imported late is now
    with without_privileges():
        if os.access(outside / "0001.png", os.R_OK, effective_ids=True):
            pytest.skip("this user may read everything")
        results = predict_files(predictor, list_images(outside), lambda *result: result, num_workers=0)
        errors = {path.name: str(result) for path, result, _ in results if isinstance(result, ImageReadError)}
    (outside / "locked").chmod(0o700)
    assert set(errors) == {"0001.png", "locked"} and all("no permission" in error for error in errors.values())


def test_files_that_vanish_in_the_middle_of_a_run(tmp_path: Path, inspect, monkeypatch) -> None:
    folder = tmp_path / "in"
    names = write_images(folder, 8)

    def vanishing(path: Path, side: int | None, white_level: int) -> tuple[np.ndarray, tuple[int, int]]:
        if path.name == names[3]:
            for name in names[3:6]:
                (folder / name).unlink()
        return read_for_size(path, side, white_level)

    monkeypatch.setattr(pipeline, "read_for_size", vanishing)
    assert inspect(folder, "--batch_size", 2)[0] == 3
    rows = rows_of(tmp_path / "out")
    assert [name for name in names if "no such file" in rows[name]["error"]] == names[3:6]
    assert sum(not row["error"] for row in rows.values()) == 5


def test_a_folder_without_images(tmp_path: Path, tiny: Path, script) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/notes.txt").write_text("no image")
    arguments = ("--checkpoint", tiny, "--image_dir", tmp_path / "in", "--output_dir", tmp_path / "out", *FLAGS)
    status, _, err = script("inference_defect_model", *arguments)
    assert status == 1 and "no images" in err and not (tmp_path / "out").exists()


def test_500_files_of_which_a_tenth_is_bad_lose_none_of_the_good(tmp_path: Path, inspect) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good, bad = [make() for make in GOOD.values()], [make() for make, reason in BAD.values() if "large" not in reason]
    suffixes = [Path(name).suffix for name in GOOD]
    expected = set()
    for number in range(500):
        broken = number % 10 == number // 10 % 10
        content = bad[number % len(bad)] if broken else good[number % len(good)]
        name = f"{number}{suffixes[number % len(good)]}"
        (folder / name).write_bytes(content)
        expected |= set() if broken else {name}
    status, out = inspect(folder, "--num_workers", 1, "--batch_size", 32)
    rows = rows_of(tmp_path / "out")
    assert status == 3 and "50 not readable" in out and len(rows) == 500
    assert {name for name, row in rows.items() if not row["error"]} == expected
    masks = {path.name.removesuffix(".png") for path in (tmp_path / "out/masks").iterdir()}
    assert masks == expected and len(rows_of(tmp_path / "out", "errors.csv")) == 50


def test_an_output_that_cannot_be_named_costs_one_row_alone(tmp_path: Path, inspect) -> None:
    """``x.png`` has its mask in a file of the name that the folder ``x.png.png`` needs for its own."""
    write_images(tmp_path / "in", 1)
    write_images(tmp_path / "in/0000.png.png", 1)
    shutil.copy(tmp_path / "in/0000.png", tmp_path / "in/z.png")
    status, _ = inspect(tmp_path / "in")
    rows = rows_of(tmp_path / "out")
    assert status == 3 and len(rows) == 3 and rows["z.png"]["error"] == ""
    assert sum("rename" in row["error"] for row in rows.values()) == 1


def test_a_network_without_an_answer_accepts_nothing(tmp_path: Path, tiny: Path, script, squares) -> None:
    """NaN is below every limit and above none."""
    content = load_checkpoint(tiny)
    for name in ("weight", "bias"):
        content["model"][f"classifier.4.{name}"].fill_(3e38)  # finite, but what they add up to is not
    torch.save(content, tmp_path / "broken.pth")
    write_images(tmp_path / "in", 3)
    flags = ("--checkpoint", tmp_path / "broken.pth")
    status, out, _ = script(
        "inference_defect_model", *flags, "--image_dir", tmp_path / "in", "--output_dir", tmp_path / "out", *FLAGS
    )
    rows = rows_of(tmp_path / "out").values()
    assert status == 3 and "0 accept" in out and len(rows) == 3
    assert all("not finite" in row["error"] and row["verdict"] == "" for row in rows)
    status, _, err = script("evaluate_defect_model", *flags, "--data_root", squares.root, *FLAGS)
    assert status == 1 and "not finite" in err and "Traceback" not in err


def test_an_unreadable_file_raises_for_a_library_user(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "a.png").touch()
    predictor = DefectPredictor.from_checkpoint(tiny, device="cpu")
    with pytest.raises(ImageReadError, match="a.png: empty file"):
        predictor(tmp_path / "a.png")
    assert predictor([]) == []
