"""Watching a folder: each image once it is complete, whatever else happens in the folder, until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers.forking import Child, Launcher
from helpers.inspecting import FLAGS, records_of, rows_of, write_images
from helpers.report_page import Page

from dinov3.inference.watch import FolderWatcher, watch


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A good image outside of the watched folder."""
    return tmp_path / "made" / write_images(tmp_path / "made", 1, 64)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "watched"
    root.mkdir()
    return root


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_file_counts_once_it_rests(folder: Path, image: Path) -> None:
    watcher, content = FolderWatcher(folder, settled=0.2), image.read_bytes()
    with (folder / "a.png").open("wb") as file:
        for start in range(0, len(content), 1500):
            file.write(content[start : start + 1500])
            file.flush()
            assert watcher.look() == []
            time.sleep(0.05)
    time.sleep(0.2)
    assert names(watcher.look()) == ["a.png"]
    assert watcher.finish(folder / "a.png", readable=True)
    assert watcher.look() == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of the last rename")
def test_a_file_that_is_renamed_in_counts_at_once(folder: Path, image: Path) -> None:
    shutil.copy(image, folder / "a.tmp")
    watcher = FolderWatcher(folder, settled=100, patience=100)
    assert watcher.look() == []
    time.sleep(0.02)
    (folder / "a.tmp").rename(folder / "a.png")
    assert names(watcher.look()) == ["a.png"]


def test_an_unreadable_file_may_be_unfinished(folder: Path, image: Path) -> None:
    watcher, path = FolderWatcher(folder, settled=0, patience=0.4), folder / "a.png"
    path.write_bytes(image.read_bytes()[:100])
    assert names(watcher.look()) == ["a.png"] and not watcher.finish(path, readable=False)
    assert watcher.look() == []  # nothing has changed
    path.write_bytes(image.read_bytes())  # the camera goes on
    assert names(watcher.look()) == ["a.png"] and watcher.finish(path, readable=True)
    path.write_bytes(b"broken for good")
    outcomes = []
    for _ in range(100):
        outcomes += [watcher.finish(found, readable=False) for found in watcher.look()]
        if True in outcomes:
            break
        time.sleep(0.02)
    assert outcomes == [False, True] and watcher.look() == []


@pytest.mark.parametrize("ahead", [-86400.0, 2.0, 3600.0, 1e9])
def test_the_clock_of_a_camera_may_be_wrong(folder: Path, image: Path, ahead: float) -> None:
    """A broken file is reported once, after the patience of this machine, and a good one at once."""
    watcher = FolderWatcher(folder, settled=0.05, patience=0.4)
    (folder / "broken.png").write_bytes(b"not an image")
    shutil.copy(image, folder / "good.png")
    for path in folder.iterdir():
        os.utime(path, (time.time() + ahead,) * 2)
    start, outcomes, tries = time.monotonic(), {}, []
    while time.monotonic() - start < 1 and len(outcomes) < 2:
        for path in watcher.look():
            tries.append(path.name)
            if watcher.finish(path, readable=path.name == "good.png"):
                outcomes[path.name] = time.monotonic() - start
        time.sleep(0.01)
    assert outcomes["good.png"] < 0.3 and 0.4 <= outcomes["broken.png"] < 0.8
    assert tries.count("broken.png") == 2 and tries.count("good.png") == 1 and watcher.look() == []


def test_a_broken_file_that_never_rests_is_not_read_without_pause(folder: Path) -> None:
    watcher, tries = FolderWatcher(folder, settled=0.1, patience=5), 0
    for i in range(30):
        (folder / "new").write_bytes(b"x" * i)
        time.sleep(0.02)
        (folder / "new").rename(folder / "a.png")  # complete at first sight, each time
        for path in watcher.look():
            tries += 1
            watcher.finish(path, readable=False)
    assert 2 <= tries <= 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_a_pipe_is_no_image(folder: Path, image: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    os.symlink("/dev/zero", folder / "endless.png")
    shutil.copy(image, folder / "a.png")
    assert names(FolderWatcher(folder, settled=0).look()) == ["a.png"]


def test_files_and_folders_come_and_go(folder: Path, image: Path, tmp_path: Path) -> None:
    watcher = FolderWatcher(folder, settled=0, done=["old.png"], skip=folder / "results")
    for name in ("old.png", "new.png", "gone.png", "line2/deep.png", "results/masks/new.png.png", ".hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / name)
    os.symlink(folder, folder / "line2" / "loop")
    found = watcher.look()
    assert sorted(names(found)) == ["deep.png", "gone.png", "new.png"]
    (folder / "gone.png").unlink()
    assert {path.name for path in found if watcher.finish(path, readable=True)} == {"deep.png", "new.png"}
    shutil.rmtree(folder / "line2")
    folder.rename(tmp_path / "away")
    assert watcher.look() == []
    (tmp_path / "away").rename(folder)


def test_a_folder_that_is_away_for_a_while_holds_no_new_images(
    folder: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "line2").mkdir()
    for name in ("resumed.png", "gone.png", "line2/deep.png", "line2/gone.png"):
        shutil.copy(image, folder / name)
    watcher = FolderWatcher(folder, settled=0, done=["resumed.png"])
    assert all(watcher.finish(path, readable=True) for path in watcher.look())

    def refuse(path: Path | str, scandir=os.scandir):
        if Path(path) == folder / "line2":
            raise PermissionError(path)
        return scandir(path)

    folder.rename(tmp_path / "away")  # all of it, then a part
    assert watcher.look() == []
    (tmp_path / "away").rename(folder)
    monkeypatch.setattr(os, "scandir", refuse)
    (folder / "gone.png").unlink()
    (folder / "line2/gone.png").unlink()
    assert watcher.look() == []
    monkeypatch.undo()
    assert watcher.look() == []
    # What really went away is a new image when it is back.
    for name in ("gone.png", "line2/gone.png"):
        (folder / name).write_bytes(image.read_bytes())
    assert watcher.look() == [folder / "gone.png", folder / "line2/gone.png"]


def test_a_rewritten_or_replaced_file_is_a_new_image(folder: Path, image: Path) -> None:
    watcher, path = FolderWatcher(folder, settled=0), folder / "latest.png"
    shutil.copy(image, path)
    for number in range(3):
        ready = watcher.look() or watcher.look()
        assert ready == [path] and watcher.finish(path, readable=True), number
        assert watcher.look() == []
        time.sleep(0.02)
        if number:
            path.unlink()
        path.write_bytes(image.read_bytes())


def test_looking_costs_little_with_100_000_files(outside: Path) -> None:
    for number in range(100_000):
        os.close(os.open(outside / f"{number}.png", os.O_CREAT))
    watcher = FolderWatcher(outside, done=[f"{number}.png" for number in range(100_000)])
    times = []
    for _ in range(5):
        start = time.process_time()
        assert watcher.look() == []
        times.append(time.process_time() - start)
    assert min(times) < 0.6
    start, used = time.perf_counter(), time.process_time()
    assert list(watch(watcher, lambda: time.perf_counter() - start > 4, interval=0.1)) == []
    assert (time.process_time() - used) / (time.perf_counter() - start) < 0.25


def wait_for_rows(output: Path, names: list[str], process: Child) -> None:
    end = time.monotonic() + 300
    while not (output / "predictions.csv").exists() or set(rows_of(output)) != set(names):
        assert process.status() is None and time.monotonic() < end, process.log.read_text()
        time.sleep(0.05)


def not_utf8(folder: Path) -> bool:
    """Make an image of such a name, where the file system allows it."""
    try:
        shutil.copy(next(folder.glob("*.png")), os.fsencode(folder) + b"/caf\xe9.png")
    except (OSError, UnicodeError):
        return False
    return True


def test_the_script_inspects_what_comes_and_ends_cleanly(
    launcher: Launcher, tiny: Path, folder: Path, image: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = ["--checkpoint", tiny, "--watch", "--resume"]
    command += ["--image_dir", folder, "--output_dir", output, *FLAGS, "--no_visualize"]
    known: list[str] = []
    # The second goes on with the results of the first.
    for part, number in (("first", signal.SIGINT), ("second", signal.SIGTERM)):
        shutil.copy(image, folder / f"{part} before.png")
        process = launcher.start(command, script="inference_defect_model")
        known.append(f"{part} before.png")
        wait_for_rows(output, known, process)
        shutil.copy(image, folder / f"{part} later.png")
        (folder / f"{part} later.png").rename(folder / f"{part} renamed.png")
        known.append(f"{part} renamed.png")
        wait_for_rows(output, known, process)
        (folder / f"{part} renamed.png").unlink()
        (folder / f"{part} bad.png").write_bytes(b"")
        known.append(f"{part} bad.png")
        wait_for_rows(output, known, process)
        if part == "second" and not_utf8(folder):
            known.append("caf\\xe9.png")
            wait_for_rows(output, known, process)
        process.send(number)
        status, printed = process.status(60), process.log.read_text()
        assert status == 0 and "Traceback" not in printed, printed
    rows = rows_of(output)
    assert set(rows) == set(known) and len(rows) == len(records_of(output)) and f"{len(rows)} images" in printed
    bad = {name for name in known if "bad" in name or "caf" in name}
    assert {name for name, row in rows.items() if row["error"]} == bad == set(rows_of(output, "errors.csv"))
    assert all("not valid UTF-8; rename" in row["error"] for name, row in rows.items() if "caf" in name)
    page = Page(output / "report.html")
    assert len(page.json("rows")) == len(set(known) - bad) and all(photo for photo, _ in page.pictures())


def test_a_share_that_is_away_for_a_moment_is_not_inspected_again(
    launcher: Launcher, tiny: Path, folder: Path, image: Path, tmp_path: Path, script
) -> None:
    output, known = tmp_path / "out", ["before.png", "watched.png", "after.png"]
    base = ("--checkpoint", tiny, "--image_dir", folder, "--output_dir", output, *FLAGS, "--no_visualize", "--resume")
    shutil.copy(image, folder / known[0])
    assert script("inference_defect_model", *base)[0] == 0
    process = launcher.start([*base, "--watch"], script="inference_defect_model")
    shutil.copy(image, folder / known[1])
    wait_for_rows(output, known[:2], process)
    folder.rename(tmp_path / "away")
    time.sleep(1.5)  # three looks
    (tmp_path / "away").rename(folder)
    shutil.copy(image, folder / known[2])
    wait_for_rows(output, known, process)
    process.send(signal.SIGINT)
    assert process.status(60) == 0
    printed = process.log.read_text()
    assert "3 images:" in printed and "before.png: " not in printed
