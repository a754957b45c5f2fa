"""Archives on many machines: what is lost with a machine or a stop is done again, and nothing twice."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.forking import Launcher
from helpers.inspecting import rows_of, write_images
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"
)
FILES, IMAGES_PER_FILE = 20, 3
MEMORY = 100 * 2**20  # bytes for what a machine's processes share


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one core, which notice quickly when the other is gone."""
    from ray.cluster_utils import Cluster

    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    first = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False, "_system_config": checks}
    first["num_gpus"] = 1  # Ray counts them, and looks at none
    cluster = Cluster(initialize_head=True, head_node_args=first)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two folders, large enough that a file of results takes a while; one is broken, one is hidden."""
    folder = tmp_path_factory.mktemp("archive")
    write_images(folder / "b", FILES * IMAGES_PER_FILE // 2, size=300)
    write_images(folder / "a b", FILES * IMAGES_PER_FILE // 2 - 1, size=300)
    (folder / "a b" / "broken.png").write_bytes((folder / "b" / "0000.png").read_bytes()[:5000])
    shutil.copy(folder / "b" / "0000.png", folder / ".hidden.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("model") / "toy.onnx", small_facts(thresholds=LIMITS))


LIMITS = {"classification": 0.5, "mask": 0.6}


def parquet_rows(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of all files of results by image."""
    import pyarrow.dataset

    rows = pyarrow.dataset.dataset(output / "results").to_table().to_pylist()
    by_image = {row["image"]: row for row in rows}
    assert len(by_image) == len(rows), "two rows for one image"
    return by_image


def wait_for_files(output: Path, count: int, child: Any) -> int:
    """Wait until so many files of results are there; how many there are."""
    deadline = time.monotonic() + 120
    while (found := len(list(output.glob("results/*.parquet")))) < count:
        assert child.status() is None and time.monotonic() < deadline, child.log.read_text()
        time.sleep(0.02)
    return found


def test_nothing_is_lost_or_doubled(
    cluster: Any, launcher: Launcher, archive: Path, model: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    output, plain = tmp_path / "output", tmp_path / "plain"
    flags = ["--checkpoint", model, "--image_dir", archive.as_uri(), "--output_dir", output]
    flags += ["--images_per_file", IMAGES_PER_FILE, "--address", cluster.address, "--device", "cpu"]
    other = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=MEMORY)

    stopped = launcher.start(flags, script="inspect_archive")
    wait_for_files(output, 2, stopped)
    stopped.send(15)
    assert stopped.status(60) == 143 and "add --resume" in stopped.log.read_text(), stopped.log.read_text()
    first = {path: path.read_bytes() for path in output.glob("results/*.parquet")}
    assert len(first) < FILES
    assert script("inspect_archive", *flags)[0] == 1  # without --resume
    assert {path: path.read_bytes() for path in first} == first

    torn = next(iter(first))
    torn.write_bytes(first.pop(torn)[:-100])
    going_on = launcher.start([*flags, "--resume", "--gpus_per_actor", 1], script="inspect_archive")
    wait_for_files(output, len(first) + 3, going_on)
    cluster.remove_node(other, allow_graceful=False)
    assert len(list(output.glob("results/*.parquet"))) < FILES - 1  # it was in the middle
    assert going_on.status(120) == 3, going_on.log.read_text()
    assert f"{FILES * IMAGES_PER_FILE} images: " in going_on.log.read_text()
    assert {path: path.read_bytes() for path in first} == first  # not done again

    inspected = launcher.start(
        ["--checkpoint", model, "--image_dir", archive, "--output_dir", plain, "--no_report", "--no_visualize"],
        script="inference_defect_model",
    )
    assert inspected.status(60) == 3
    expected, found = rows_of(plain), parquet_rows(output)
    assert found.keys() == expected.keys() and len(found) == FILES * IMAGES_PER_FILE
    assert {row["verdict"] for row in expected.values()} == {"accept", "reject", ""}
    for name, wanted in expected.items():
        row = found[name]
        assert list(row) == list(wanted)
        assert row["error"] == wanted["error"].replace(str(archive), archive.as_uri())
        for column in ("verdict", "predicted_class", "reason"):
            assert (row[column] or "") == wanted[column]
        for column in ("defect_probability", "prob_defect", "threshold", "mask_area_fraction", "num_regions"):
            assert wanted[column] == "" if row[column] is None else row[column] == pytest.approx(float(wanted[column]))
        assert wanted["disagreement"] == {True: "true", False: "false", None: ""}[row["disagreement"]]

    from dinov3.defect_deployment.archive.places import Place
    from dinov3.defect_deployment.archive.results import Results

    results = Results(Place(str(output), "--output_dir"))
    results.load()
    again = [number for number, names in enumerate(results.files) if "a b/broken.png" in names]
    assert results.unfinished(False) == [] and results.unfinished(True) == again
    results.plan([*expected, "b/new.png"], IMAGES_PER_FILE)
    assert results.unfinished(False) == [FILES] and results.files[FILES] == ["b/new.png"]
    strict = write_toy(tmp_path / "strict.onnx", small_facts())
    status, _, err = script("inspect_archive", *flags, "--resume", "--checkpoint", strict, "--min_region_area", 5)
    assert status == 1 and "--checkpoint is another file" in err and "--min_region_area was 0, now 5" in err


def test_mistakes_are_named(model: Path, archive: Path, tmp_path: Path, script: Callable[..., Any]) -> None:
    flags = ["--checkpoint", model, "--image_dir", archive, "--output_dir", tmp_path / "output"]

    def told(*more: object) -> str:
        status, _, err = script("inspect_archive", *flags, *more)
        assert status == 1
        return err

    assert f"{tmp_path / 'none.onnx'}: cannot be read" in told("--checkpoint", tmp_path / "none.onnx")
    err = told("--image_dir", "nowhere://name:password@bucket/month?key=secret")
    assert "nowhere://bucket/month: " in err and "expected a folder, or an address" in err
    assert "password" not in err and "secret" not in err
    assert f"{tmp_path / 'none'}: no such folder" in told("--image_dir", tmp_path / "none")
    assert "cannot be listed" in told("--image_dir", (tmp_path / "none").as_uri())
    (tmp_path / "other" / "results").mkdir(parents=True)
    assert "results there came from no inspection of an archive" in told("--output_dir", tmp_path / "other")
    (tmp_path / "other" / "archive.json").write_text('{"kind": "another program\'s"}')
    assert "came from no inspection of an archive" in told("--output_dir", tmp_path / "other")
    assert not (tmp_path / "output").exists()
    unknown = "--address", "127.0.0.1:1"
    assert "no cluster of Ray that can be used" in told(*unknown)
    assert "no cluster of Ray that can be used" in told(
        *unknown, "--min_region_area", 5
    )  # nothing was done that it could contradict


def test_actors_name_the_model_as_it_was_given(model: Path, tmp_path: Path) -> None:
    from dinov3.defect_deployment.archive.config import ArchiveConfig
    from dinov3.defect_deployment.archive.inspector import Work, open_sent
    from dinov3.defect_deployment.archive.places import Place
    from dinov3.defect_errors import DefectError

    config = ArchiveConfig(checkpoint=model, image_dir="in", output_dir="out")
    places = Place("in", "--image_dir"), Place("out", "--output_dir")
    broken = model.read_bytes()[:-200]
    with pytest.raises(DefectError, match=f"^{model}: "):
        open_sent(Work(config, *places, {"checkpoint": broken}))
    rules = {"rules": b"limits: nonsense"}
    with pytest.raises(DefectError, match="^limits.yaml: "):
        given = ArchiveConfig(checkpoint=model, image_dir="in", output_dir="out", rules=Path("limits.yaml"))
        open_sent(Work(given, *places, {"checkpoint": model.read_bytes(), **rules}))


def test_nobody_waits_for_a_gpu_that_this_machine_does_not_have() -> None:
    from dinov3.defect_deployment.archive.cluster import actors_of
    from dinov3.defect_deployment.archive.config import ArchiveConfig
    from dinov3.defect_errors import DefectError

    config = ArchiveConfig(checkpoint=Path("m.onnx"), image_dir="in", output_dir="out", actors=2, gpus_per_actor=1.0)
    machine = [{"CPU": 4.0}]
    with pytest.raises(DefectError, match="found: 4 cores, 0 GPUs"):
        actors_of(config, 9, machine)
    assert actors_of(replace(config, gpus_per_actor=0.0), 9, machine) == 2
    assert actors_of(replace(config, address="auto"), 9, machine) == 2  # more machines may join a cluster
