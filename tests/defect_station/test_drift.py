"""The test for drift: its promise, what it sees, and the script."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy
from PIL import Image

from dinov3.defect_errors import DefectError
from dinov3.defect_station.drift import DriftMonitor
from dinov3.defect_station.martingale import ConformalMartingale
from dinov3.defect_station.observations import Observation, one_per_part


def observations(scores: np.ndarray, name: str = "image") -> list[Observation]:
    return [Observation(f"{name}{i:04d}.png", float(score)) for i, score in enumerate(scores)]


def test_the_promise_holds_over_streams_in_which_nothing_changes() -> None:
    rng, limit, alarms = np.random.default_rng(0), math.log(1 / 0.1), 0
    for stream in range(150):
        # Scores pile up at 0 and 1, with many ties, as those of a sure classifier do.
        values = np.round(rng.beta(0.05, 0.3, 250), 3)
        test = ConformalMartingale(values[:50], seed=stream)
        for value in values[50:]:
            test.update(value)
        alarms += test.highest >= limit
    assert 0 < alarms <= 15  # at most a tenth; and it does play


@pytest.mark.parametrize(("moved", "before"), [(0.15, 0), (-0.15, 0), (0.15, 3000)])
def test_a_change_is_seen_within_some_dozens_of_images(moved: float, before: int) -> None:
    rng = np.random.default_rng(1)
    monitor = DriftMonitor(observations(rng.normal(0.5, 0.1, 200)), false_alarm=0.01)
    for image in observations(rng.normal(0.5, 0.1, before), "same"):
        assert monitor.update(image) == []
    changed = observations(rng.normal(0.5 + moved, 0.1, 100), "moved")
    raised = [alarm for image in changed for alarm in monitor.update(image)]
    assert len(raised) == 1 and raised[0].what == "score" and raised[0].after - before < 60
    assert all(image.name.startswith("moved") for image, _ in monitor.moved_most(10))


def test_a_change_of_distance_alone_is_told_as_such() -> None:
    rng = np.random.default_rng(2)
    reference = [Observation(str(i), *pair) for i, pair in enumerate(rng.normal(0.5, 0.1, (100, 2)))]
    monitor = DriftMonitor(reference)
    for i, (score, novelty) in enumerate(rng.normal(0.5, 0.1, (100, 2))):
        monitor.update(Observation(f"new{i}", score, novelty + 0.3))
    assert [alarm.what for alarm in monitor.alarms] == ["novelty"]
    with pytest.raises(DefectError, match="no novelty, which the reference has"):
        monitor.update(Observation("other", 0.5))
    with pytest.raises(DefectError, match="expected at least 20"):
        DriftMonitor(reference[:5])


def test_a_test_goes_on_from_its_state() -> None:
    values = np.random.default_rng(3).random(300)
    whole, first = ConformalMartingale(values[:50]), ConformalMartingale(values[:50])
    expected = [whole.update(value) for value in values[50:]]
    found = [first.update(value) for value in values[50:170]]
    second = ConformalMartingale()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.update(value) for value in values[170:]]
    assert found == expected and second.log_capital == whole.log_capital
    with pytest.raises(ValueError, match="nan"):
        whole.update(math.nan)


def test_views_of_a_part_count_once() -> None:
    views = [Observation("a1", 0.2, 1.0), Observation("b1", 0.1, None), Observation("a2", 0.6, 0.5)]
    assert list(one_per_part(views, lambda name: name[0])) == [Observation("a1", 0.6, 1.0), Observation("b1", 0.1)]
    own = [Observation("a1", 0.2, part="A"), Observation("x", 0.9), Observation("a2", 0.3, part="A")]
    assert [(one.name, one.score) for one in one_per_part(own, None)] == [("x", 0.9), ("a1", 0.3)]
    told = one_per_part([*own, Observation("y", 0.8, part="y")], lambda name: name)  # names that tell nothing
    assert [one.name for one in told] == ["x", "y", "a1"]


def test_views_of_a_part_raise_no_alarm_beside_a_reference_of_single_images() -> None:
    rng = np.random.default_rng(5)
    parts = [
        Observation(f"{i}_{view}", score, part=str(i)) for i in range(400) for view, score in enumerate(rng.random(4))
    ]
    monitor = DriftMonitor(observations(rng.random(200)))
    seen = list(one_per_part(parts, None, largest=False))
    assert [monitor.update(one) for one in seen] == [[]] * 400
    assert {one.name[-1] for one in seen} == set("0123")


def write_results(folder: Path, scores: np.ndarray) -> Path:
    folder.mkdir()
    records = [{"image": f"cell{i}_view{k}.png", "defect_probability": s} for i, s in enumerate(scores) for k in (1, 2)]
    lines = ",\n".join(json.dumps(one | {"error": "", "novelty": None}) for one in records)
    (folder / "predictions.json").write_text("[\n" + lines + "\n]\n")
    return folder


def test_the_script_tells_a_change_and_what_spoke_for_it(tmp_path: Path, script) -> None:
    rng = np.random.default_rng(4)
    reference = write_results(tmp_path / "reference", rng.beta(2, 8, 80))
    same = write_results(tmp_path / "same", rng.beta(2, 8, 80))
    other = write_results(tmp_path / "other", rng.beta(8, 2, 80))
    flags = ("check_defect_drift", "--reference", reference, "--part_regex", "cell([0-9]+)", "--fail_on_drift")
    status, out, err = script(*flags, "--results", same)
    assert status == 0 and "80 images against 80" in out and "no change was found" in out, err
    status, out, _ = script(*flags, "--results", same, other)
    assert status == 4 and "changed: defect probabilities" in out and str(other) in out
    broken = write_results(tmp_path / "broken", np.array([np.nan]))
    status, _, err = script(*flags, "--results", broken)
    assert status == 1 and "cell0_view1.png" in err and "expected finite numbers" in err
    status, _, err = script(*flags, "--results", tmp_path / "missing")
    assert status == 1 and "missing" in err and "results folder" in err


def test_an_inspection_tells_whether_its_images_are_like_those_of_a_reference(tmp_path: Path, script) -> None:
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
    rng = np.random.default_rng(0)
    for name, low, high in (("before", 80, 120), ("same", 80, 120), ("after", 110, 150)):
        (tmp_path / name).mkdir()
        for i, level in enumerate(rng.integers(low, high, 30)):
            Image.fromarray(np.full((24, 24, 3), level, np.uint8)).save(tmp_path / name / f"{i:02d}.png")
    model, database = write_toy(tmp_path / "model.onnx", small_facts()), tmp_path / "results.sqlite"
    base = ("inference_defect_model", "--checkpoint", model, "--threads", 1, "--no_visualize")
    reference = tmp_path / "reference"
    assert script(*base, "--image_dir", tmp_path / "before", "--output_dir", reference)[0] == 0
    flags = ("--drift_reference", reference, "--false_alarm", 0.05)
    pages = {}
    for name in ("same", "after"):
        output = ("--image_dir", tmp_path / name, "--output_dir", tmp_path / f"{name} out", "--store", database)
        status, out, err = script(*base, *output, *flags)
        pages[name] = (tmp_path / f"{name} out" / "report.html").read_text(encoding="utf-8")
        assert status == 0 and "30 images against 30" in out, err
        assert ("changed: defect probabilities" in out) == (name == "after")
        assert ("来料是否变化" in pages[name]) and ("What speaks most for a change" in pages[name]) == (name == "after")
    status, out, err = script("check_defect_drift", "--reference", reference, "--store", database, "--fail_on_drift")
    assert status == 4 and "60 images against 30" in out and "what speaks most for a change" in out, err
    status, out, err = script(
        "check_defect_drift", "--reference", reference, "--store", database, "--since", "yesterday"
    )
    assert status == 1 and "no change" not in out and "no image inspected by the model" in err and "yesterday" in err
    other = write_toy(tmp_path / "other.onnx", small_facts(fingerprint="another"))
    output = ("--image_dir", tmp_path / "same", "--output_dir", tmp_path / "out")
    status, _, err = script(base[0], "--checkpoint", other, *base[3:], *output, *flags)
    assert status == 1 and "--drift_reference" in err and "another model" in err
