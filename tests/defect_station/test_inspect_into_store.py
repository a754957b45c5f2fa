"""inference_defect_model.py --store: every image is in the database once, however the run ends."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers.forking import Child, Launcher
from helpers.inspecting import records_of, write_images

from dinov3.defect_station.store import Store
from dinov3.defect_station.store.inspected import read_embedding
from dinov3.models.defect_facts import fingerprint

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")


@pytest.fixture(scope="module")
def start(launcher: Launcher) -> Callable[..., Child]:
    """Starts an inspection."""
    launcher.load("onnxruntime", "dinov3.defect_station.store.sink")
    return partial(launcher.start, script="inference_defect_model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and 150 images, one of them bad; don't change it."""
    from helpers.networks import small_facts
    from helpers.toy_onnx import write_toy

    root = tmp_path_factory.mktemp("inspect")
    limits = {"classification": 0.5, "review": 0.495, "mask": 0.9}
    write_toy(root / "toy.onnx", small_facts(thresholds=limits))
    (root / "images" / write_images(root / "images", 150)[7]).write_bytes(b"bad")
    return root


def flags(folder: Path, output: Path, store: object, *more: object) -> list[object]:
    base = ["--checkpoint", folder / "toy.onnx", "--output_dir", output, "--store", store, "--threads", 1]
    return [*base, "--batch_size", 4, "--no_visualize", "--no_report", *more]


def test_the_database_has_what_predictions_json_has(start, folder: Path, tmp_path: Path) -> None:
    output, url = tmp_path / "out", str(tmp_path / "results.sqlite")
    command = flags(folder, output, url, "--image_dir", folder / "images", "--part_regex", "^([0-9]{3})")
    assert start(command).status(60) == 3, "one image is bad"
    records = {record["image"]: record for record in records_of(output)}
    with Store.open(url) as store:
        rows = {row["name"]: row for row in store.rows(embeddings=True)}
        assert len(rows) == sum(store.counts().values()) == 150
    described = {name for name, row in rows.items() if read_embedding(row) is not None}
    assert described == {name for name, record in records.items() if not record["error"]}
    for name, record in records.items():
        row = rows[name]
        assert row["content_hash"] == fingerprint(row["image_path"]) and row["error"] == record["error"]
        assert row["part"] == name[:3]
        assert row["model"] == fingerprint(folder / "toy.onnx")
        if not record["error"]:
            same = "verdict predicted_class defect_probability disagreement decided_by regions".split()
            assert {key: row[key] for key in same} == {key: record[key] for key in same}
            assert Path(row["mask_path"]) == output / record["mask"] and Path(row["mask_path"]).is_file()
    assert rows["0007.png"]["verdict"] == "error" and rows["0007.png"]["mask_path"] == ""
    assert start(command).status(60) == 3
    with Store.open(url) as store:
        assert sum(store.counts().values()) == 150, "the same images by the same model are no news"
        assert start([*command, "--threshold", 0.2]).status(60) == 3
        assert sum(store.counts().values()) == 300, "by other thresholds they are"


def test_a_killed_run_goes_on_without_doubling_or_missing_an_image(start, folder: Path, tmp_path: Path) -> None:
    output, store = tmp_path / "out", tmp_path / "results.sqlite"
    command = flags(folder, output, store, "--image_dir", folder / "images")
    slow = "import time\nfrom dinov3.inference import outputs\nwrite = outputs.write_mask\n"
    slow += "outputs.write_mask = lambda *a: (time.sleep(0.02), write(*a))\noutputs.SECONDS_UNWRITTEN = 0.05"
    done = 0
    for _ in range(3):
        child = start([*command, "--resume"], before=slow)
        while done == (done := len(os.listdir(output / "masks")) if (output / "masks").exists() else 0) or done < 20:
            assert child.status() is None, child.log.read_text()
            time.sleep(0.1)
        child.send(signal.SIGKILL)
        child.status(10)
    assert start([*command, "--resume"]).status(60) == 3
    with Store.open(str(store)) as opened:
        names = [row["name"] for row in opened.rows()]
    assert sorted(names) == sorted(record["image"] for record in records_of(output)) and len(set(names)) == 150
    other = start([*flags(folder, output, tmp_path / "other.sqlite", "--image_dir", folder / "images"), "--resume"])
    assert other.status(60) == 1 and "--store was" in other.log.read_text(), "it would lack the first images"


def test_a_watched_folder_fills_the_database_and_old_rows_go(start, folder: Path, tmp_path: Path) -> None:
    images, store = tmp_path / "images", tmp_path / "results.sqlite"
    shutil.copytree(folder / "images", images)
    child = start(flags(folder, tmp_path / "out", store, "--image_dir", images, "--watch"))
    deadline = time.monotonic() + 30
    found = 0
    while found < 149:
        assert child.status() is None and time.monotonic() < deadline, child.log.read_text()
        time.sleep(0.1)
        if store.exists():
            with Store.open(str(store)) as opened:
                found = sum(opened.counts().values())
    child.send(signal.SIGTERM)
    assert child.status(10) == 0
    one = images / "0001.png"
    again = flags(folder, tmp_path / "out2", store, "--image", one, "--store_mb", 0.01)
    assert start(again).status(30) == 0
    with Store.open(str(store)) as opened:
        assert 1 <= sum(opened.counts().values()) < 20


def test_a_database_that_is_none_ends_the_run_before_it_begins(start, folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "x.sqlite"
    bad.write_bytes(b"no database " * 100)
    child = start(flags(folder, tmp_path / "out", bad, "--image_dir", folder / "images"))
    assert child.status(30) == 1 and "x.sqlite: not an SQLite database" in child.log.read_text()
    assert not (tmp_path / "out" / "predictions.json").exists()
    child = start(
        flags(folder, tmp_path / "out", bad, "--image_dir", folder / "images")[:4] + ["--store_mb", 1, "--image", "x"]
    )
    assert child.status(30) == 2 and "need --store" in child.log.read_text()
