"""Several images of one part make one verdict."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from helpers.inspecting import write_images
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy
from PIL import Image

from dinov3.inference.parts import Views

pytestmark = pytest.mark.usefixtures("sessions_end")


@pytest.mark.parametrize(
    ("views", "most", "verdict"),
    [
        ("accept accept", 1, "accept"),
        ("accept reject", 1, "reject"),
        ("accept reject", 2, "review"),
        ("reject review reject", 2, "reject"),
        ("accept review", 1, "review"),
        ("accept error", 1, "review"),
        ("error", 1, "review"),
        ("reject error", 1, "reject"),
    ],
)
def test_a_part_is_accepted_only_if_all_its_views_are(views: str, most: int, verdict: str) -> None:
    part = Views()
    for view in views.split():
        error = "broken" if view == "error" else ""
        part.add({"image": view, "error": error, "verdict": view, "defect_probability": 0.5})
    assert part.verdict(most) == verdict


def parts_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "parts.csv").open(newline="", encoding="utf-8") as file:
        return {row["part"]: row for row in csv.DictReader(file)}


def test_an_inspection_tells_parts(tmp_path: Path, script) -> None:
    model = write_toy(tmp_path / "toy.onnx", small_facts(thresholds={"classification": 0.5, "mask": 0.99}))
    folder = tmp_path / "in"
    write_images(folder, 1, size=64)
    for image in folder.iterdir():
        image.unlink()
    for name, shade in {"a_1": 20, "a_2": 250, "b_1": 20, "b_2": 20, "c_1": 20, "single": 20}.items():
        Image.new("RGB", (64, 64), (shade,) * 3).save(folder / f"{name}.png")
    (folder / "c_2.png").write_bytes(b"")
    out = tmp_path / "out"
    flags = ("--checkpoint", model, "--image_dir", folder, "--output_dir", out, "--no_report", "--no_visualize")
    status, told, err = script("inference_defect_model", *flags, "--part_regex", "^([a-z])_")
    assert status == 3 and "4 parts: 2 accept, 1 review, 1 reject" in told, err
    found = parts_of(out)
    assert {name: row["verdict"] for name, row in found.items()} == {
        "a": "reject", "b": "accept", "c": "review", "single.png": "accept"
    }  # fmt: skip
    assert (found["a"]["image"], found["a"]["images"], found["c"]["error"]) == ("a_2.png", "2", "1")
    status, told, _ = script("inference_defect_model", *flags, "--part_regex", "^([a-z])_", "--views_to_reject", 2)
    assert "0 reject (parts.csv)" in told and parts_of(out)["a"]["verdict"] == "review"
    assert script("inference_defect_model", *flags)[0] == 3 and not (out / "parts.csv").exists()
    status, _, err = script("inference_defect_model", *flags, "--part_regex", "(")
    assert status == 1 and "--part_regex" in err
