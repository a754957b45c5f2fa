"""An inspection that is stopped, by whatever means, goes on to what it would have been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.forking import Child, Launcher
from helpers.inspecting import FLAGS, records_of, rows_of, write_images
from helpers.report_page import Page

from dinov3.inference.outputs import Finished, OutputWriter

COUNT = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images, three of them bad; don't change it."""
    root = tmp_path_factory.mktemp("images")
    for name in write_images(root, COUNT)[10:70:25]:
        (root / name).write_bytes(b"bad")
    return root


def flags(tiny: Path, folder: Path, output: Path, *more: object) -> list[str]:
    base = ("--checkpoint", tiny, "--image_dir", folder, "--output_dir", output, "--batch_size", 7)
    return [str(flag) for flag in (*base, *FLAGS, "--no_visualize", *more)]


@pytest.fixture(scope="module")
def whole(tiny: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one uninterrupted run."""
    import inference_defect_model

    output = tmp_path_factory.mktemp("whole") / "out"
    assert inference_defect_model.main(flags(tiny, folder, output)) == 3
    return output


def content(output: Path) -> dict[str, object]:
    """All that a run leaves but for the milliseconds."""

    def timeless(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{key: value for key, value in row.items() if key != "milliseconds"} for row in rows]

    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    table = (output / "predictions.csv").read_text(encoding="utf-8-sig").splitlines()
    return {
        "files": files,
        "header": table[0],
        "order": [line.partition(",")[0] for line in table],
        "table": timeless(list(rows_of(output).values())),
        "json": timeless(records_of(output)),
        "errors": (output / "errors.csv").read_text(encoding="utf-8-sig"),
        "masks": {path.name: path.read_bytes() for path in (output / "masks").iterdir()},
        "run": json.loads((output / "run.json").read_text()),
    }


def stop_after(masks: int, process: Child, output: Path, number: int) -> int | None:
    """Send a signal when the run has written as many ``masks``; its exit status."""
    while process.status() is None:
        if (output / "masks").exists() and len(os.listdir(output / "masks")) > masks:
            process.send(number)
            return process.status(60)
        time.sleep(0.002)
    raise AssertionError(process.log.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_exactly(
    launcher: Launcher, tiny, folder, whole, tmp_path: Path, script, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    process = launcher.start(flags(tiny, folder, output), script="inference_defect_model")
    status = stop_after(20, process, output, number)
    printed = process.log.read_text()
    if number == signal.SIGKILL:
        assert status == -number
    else:
        assert status == 128 + number and "--resume" in printed and "Traceback" not in printed
        assert 0 < len(records_of(output)) == len(rows_of(output)) < COUNT  # whole files, though not all rows
    status, out, _ = script("inference_defect_model", *flags(tiny, folder, output, "--resume"))
    assert status == 3 and f"{COUNT} images:" in out and "3 not readable" in out
    assert content(output) == content(whole)


@pytest.mark.parametrize("cut", [0, 2, 5000, -3])
def test_torn_files_are_repaired(tiny, folder, whole, tmp_path: Path, script, cut: int) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    for name in ("predictions.json", "predictions.csv"):
        text = (output / name).read_bytes()
        (output / name).write_bytes(text[:cut])
    (output / "errors.csv").unlink()
    assert script("inference_defect_model", *flags(tiny, folder, output, "--resume"))[0] == 3
    assert content(output) == content(whole)


def test_other_results_are_not_mixed(tiny, folder, whole, tmp_path: Path, script) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    before = (output / "predictions.csv").read_bytes()
    rules = tmp_path / "rules.yaml"
    rules.write_text("limits:\n  max_count: 3\n")
    cases = [
        (("--threshold", 0.25), "--threshold was not given, now 0.25"),
        (
            ("--rules", rules, "--min_region_area", 4),
            "--rules was not given, now given; --min_region_area was 0, now 4",
        ),
        (("--image_dir", tmp_path), f"--image_dir was {folder.resolve()}, now {tmp_path.resolve()}"),
    ]
    write_images(tmp_path, 1)
    for more, message in cases:
        status, _, err = script("inference_defect_model", *flags(tiny, folder, output, "--resume", *more))
        assert status == 1 and message in err and "Traceback" not in err
    assert (output / "predictions.csv").read_bytes() == before
    (output / "run.json").unlink()
    status, _, err = script("inference_defect_model", *flags(tiny, folder, output, "--resume"))
    assert status == 1 and "no run.json" in err


def test_another_checkpoint_is_noticed_by_its_content(squares, trained, folder, tmp_path: Path, script) -> None:
    output, checkpoint = tmp_path / "out", tmp_path / "model.pth"
    checkpoint.write_bytes((trained / "last.pth").read_bytes())
    (folder_of_one := tmp_path / "in").mkdir()
    write_images(folder_of_one, 1)
    script("inference_defect_model", *flags(checkpoint, folder_of_one, output))
    checkpoint.write_bytes((trained / "best_iou.pth").read_bytes())
    status, _, err = script("inference_defect_model", *flags(checkpoint, folder_of_one, output, "--resume"))
    assert status == 1 and "--checkpoint is another file, or has changed" in err


def test_without_resume_results_are_replaced_and_resume_may_begin(tiny, folder, tmp_path: Path, script) -> None:
    output = tmp_path / "out"
    assert script("inference_defect_model", *flags(tiny, folder, output, "--resume"))[0] == 3  # nothing there yet
    assert script("inference_defect_model", *flags(tiny, folder, output, "--threshold", 0))[0] == 3
    assert {row["threshold"] for row in rows_of(output).values() if not row["error"]} == {"0.0"}
    status, out, _ = script("inference_defect_model", *flags(tiny, folder, output, "--threshold", 0, "--resume"))
    assert status == 3 and "120 images were inspected before" in out


def test_images_added_after_the_end_join_the_report_of_the_others(tiny, folder, tmp_path: Path, script) -> None:
    output, images = tmp_path / "out", tmp_path / "in"
    shutil.copytree(folder, images)
    (late := images / "0119.png").rename(tmp_path / "late.png")
    script("inference_defect_model", *flags(tiny, images, output))
    (tmp_path / "late.png").rename(late)
    for _ in range(2):  # the second has nothing to do
        status, out, _ = script("inference_defect_model", *flags(tiny, images, output, "--resume"))
        page = Page(output / "report.html")
        assert status == 3 and f"{COUNT} images:" in out
        assert len(page.json("rows")) == COUNT - 3 and all(photo for photo, _ in page.pictures())
        assert not list(output.glob("*.spool*"))


def files_of(output: Path) -> set[str]:
    """All but the tables, which every run writes."""
    tables = {"predictions.csv", "predictions.json", "errors.csv", "run.json"}
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()} - tables


@pytest.fixture
def two_folders(tiny, tmp_path: Path, script):
    """Runs the script on in1/ (a.png, line/b.png) or in2/ (c.png): -> the files in out/ after it."""
    for number, name in enumerate(("in1/a.png", "in1/line/b.png", "in2/c.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_images(tmp_path / "made", number + 1)
        shutil.copy(tmp_path / f"made/{number:04}.png", tmp_path / name)

    def run(name: str, *more: object) -> set[str]:
        base = ("--checkpoint", tiny, "--image_dir", tmp_path / name, "--output_dir", tmp_path / "out", *FLAGS)
        assert script("inference_defect_model", *base, *more)[0] == 0
        return files_of(tmp_path / "out")

    return run


def test_a_new_run_removes_what_the_last_one_wrote_and_nothing_else(two_folders, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first, second = (
        {"report.html", *(f"{kind}/{name}.png" for kind in ("masks", "visualizations") for name in names)}
        for names in (("a.png", "line/b.png"), ("c.png",))
    )
    assert two_folders("in1") == first
    assert two_folders("in2") == second and not (output / "masks/line").exists()
    own = {"masks/line/mine.png", "masks/mine.png.png", "visualizations/notes.txt", "notes/a.png"}
    for name in own:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("mine")
    assert two_folders("in1") == first | own
    # Pictures of other verdicts don't stay for the report to show.
    assert two_folders("in1", "--threshold", 1, "--no_visualize") == {n for n in first if n[0] != "v"} | own
    assert Page(output / "report.html").json("report")["panels"] == ""
    assert two_folders("in1") == first | own
    assert Page(output / "report.html").json("report")["panels"] == "visualizations"
    assert two_folders("in2", "--no_report") == second - {"report.html"} | own
    (output / "report.html").write_text("<html>of the training\n")
    assert two_folders("in2", "--no_report") == second | own


@pytest.mark.parametrize("left", [None, b"[", b"[\n]\n"])
def test_a_new_run_removes_what_a_stopped_one_had_not_noted(two_folders, tmp_path: Path, left: bytes | None) -> None:
    output = tmp_path / "out"
    two_folders("in1")
    mine = output / "masks/c.png.png"
    mine.write_text("from before")
    os.utime(mine, (1e9, 1e9))
    (output / "predictions.json").unlink()
    if left is not None:
        (output / "predictions.json").write_bytes(left)
    (output / "report.spool").touch()
    (output / "masks/other.png.png").write_text("of no image")
    shutil.copy(tmp_path / "in2/c.png", tmp_path / "in1/c.png")  # it was not inspected
    expected = {"masks/a.png.png", "masks/c.png.png", "masks/other.png.png"}
    (tmp_path / "in2/c.png").rename(tmp_path / "in2/a.png")
    mine_before = mine.stat().st_mtime_ns
    assert two_folders("in2", "--no_visualize", "--no_report") == expected
    assert mine.stat().st_mtime_ns == mine_before and mine.read_text() == "from before"


def test_a_killed_run_leaves_nothing_to_the_next(launcher: Launcher, tiny, folder, two_folders, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = launcher.start(flags(tiny, folder, output), script="inference_defect_model")
    assert stop_after(20, process, output, signal.SIGKILL) == -signal.SIGKILL
    assert two_folders("in2") == {"masks/c.png.png", "visualizations/c.png.png", "report.html"}


def test_a_removal_that_was_cut_off_is_not_gone_on_with(two_folders, tmp_path: Path, script, monkeypatch) -> None:
    two_folders("in1")
    unlink, removed = Path.unlink, []

    def stop(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "line":
            raise OSError(5, "Input/output error")
        removed.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(Path, "unlink", stop)
        two_folders("in2")
    assert any(path.parent.name == "masks" for path in removed)
    with pytest.raises(AssertionError):
        two_folders("in1", "--resume")
    assert two_folders("in2") == {"masks/c.png.png", "visualizations/c.png.png", "report.html"}


class Seen:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.images: list[tuple[str, tuple | None, tuple | None]] = []
        self.finished: bool | None = None

    def add(self, record, display, mask) -> None:
        self.images.append((record["image"], getattr(display, "shape", None), getattr(mask, "shape", None)))

    def close(self, *, finished: bool) -> None:
        self.finished = finished


def test_an_observer_sees_all_in_order(whole, tmp_path: Path) -> None:
    records = records_of(whole)
    seen = Seen()
    with OutputWriter(tmp_path / "out", ["normal", "defect"], False, observer=seen) as writer:
        assert writer.needs_display
        for record in records:
            shown = (None, None) if record["error"] else (np.zeros((6, 9, 3), np.uint8), np.zeros((24, 24), np.uint8))
            writer.add(Finished(record, *shown))
    names = [record["image"] for record in records]
    assert [name for name, *_ in seen.images] == names and seen.finished is True
    assert seen.images[0][1:] == ((6, 9, 3), (24, 24)) and seen.images[10][1:] == (None, None)
    with pytest.raises(KeyboardInterrupt), OutputWriter(tmp_path / "out", ["normal", "defect"], observer=seen):
        raise KeyboardInterrupt
    assert seen.finished is False
