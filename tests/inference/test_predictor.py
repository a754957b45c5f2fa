"""Inspecting a folder: the outputs' contract, bad files, exit status, the library call."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import square_image
from helpers.inspecting import FLAGS, rows_of
from PIL import Image

from dinov3.data.defect_images import ImageReadError
from dinov3.data.defect_masks import read_mask
from dinov3.inference.prediction import Prediction
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.regions import Region
from dinov3.inference.visualize import draw_panels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good images of several formats and sizes in subfolders, and two bad ones."""
    root = tmp_path / "in put"
    rng = np.random.default_rng(3)
    names = ["a.png", "a.jpg", "line 1/a.png", "line 1/表面.bmp", "line2/big.tif", "line2/UPPER.WEBP"]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image, _ = square_image(rng, defect=number % 2 == 1, size=50 + 30 * number)
        Image.fromarray(image).save(root / name)
    (root / "broken.jpg").write_bytes((root / "a.jpg").read_bytes()[:100])
    (root / "line2/empty.png").touch()
    (root / "notes.txt").write_text("not an image")
    return root


def test_a_folder_gives_every_promised_output(trained: Path, folder: Path, tmp_path: Path, script) -> None:
    out_dir = tmp_path / "out"
    arguments = ("--checkpoint", trained / "best_accuracy.pth", "--image_dir", folder, "--output_dir", out_dir, *FLAGS)
    status, out, _ = script("inference_defect_model", *arguments)
    assert status == 3 and "2 not readable" in out
    rows = rows_of(out_dir)
    good = {name for name, row in rows.items() if not row["error"]}
    assert good == {"a.png", "a.jpg", "line 1/a.png", "line 1/表面.bmp", "line2/big.tif", "line2/UPPER.WEBP"}
    assert set(rows_of(out_dir, "errors.csv")) == {"broken.jpg", "line2/empty.png"} == set(rows) - good
    assert "empty" in rows["line2/empty.png"]["error"]
    for name in good:
        row = rows[name]
        probability = float(row["defect_probability"])
        assert probability == pytest.approx(float(row["prob_defect"]), abs=1e-5)
        assert probability == pytest.approx(1 - float(row["prob_normal"]), abs=1e-5)
        assert (
            (row["verdict"] == "reject")
            == (probability >= float(row["threshold"]))
            == (row["predicted_class"] == "defect")
        )
        assert row["reason"].startswith("defect probability 0.") and row["review_threshold"] == ""
        disagrees = (row["verdict"] == "reject") == (row["num_regions"] == "0")
        assert row["disagreement"] == ("true" if disagrees else "false")
        mask = read_mask(out_dir / "masks" / f"{name}.png")
        assert mask.shape == Image.open(folder / name).size[::-1]
        assert float(row["mask_area_fraction"]) == pytest.approx((mask > 0).mean(), abs=1e-6)
        assert Image.open(out_dir / "visualizations" / f"{name}.png").size == (1680, 450)
    records = json.loads((out_dir / "predictions.json").read_text(encoding="utf-8"))
    assert {record["image"] for record in records} == set(rows)
    for record in records:
        regions = record.get("regions", [])
        assert record["error"] or len(regions) == int(rows[record["image"]]["num_regions"])
        if not record["error"]:
            mask = read_mask(out_dir / "masks" / f"{record['image']}.png")
            assert sum(region["area"] for region in regions) == (mask > 0).sum()


def test_results_inside_the_image_folder_are_not_inspected_again(trained: Path, folder: Path, script) -> None:
    arguments = ("--checkpoint", trained / "last.pth", "--image_dir", folder, "--output_dir", folder / "out", *FLAGS)
    counts = [len(rows_of(folder / "out")) for _ in range(2) if script("inference_defect_model", *arguments)]
    assert counts == [8, 8]


def test_results_inside_are_known_however_the_image_folder_is_spelled(
    tiny: Path, folder: Path, tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(folder)
    (folder / "linked.png").symlink_to(folder / "a.png")  # a link among the images is an image
    monkeypatch.chdir(tmp_path / "sub")
    for spelled in (f"../{folder.name}", "../link", tmp_path / "link"):
        for output in (f"../{folder.name}/out", "../link/out"):
            status, out, _ = script(
                "inference_defect_model", "--checkpoint", tiny, "--image_dir", spelled, "--output_dir", output, *FLAGS
            )
            assert status == 3 and "9 images:" in out, (spelled, output)


def test_one_image_thresholds_and_no_pictures(trained: Path, folder: Path, tmp_path: Path, script) -> None:
    base = ("--checkpoint", trained / "last.pth", "--image", folder / "a.png", *FLAGS, "--no_visualize")
    for threshold, verdict in ((0, "reject"), (1, "accept")):
        out_dir = tmp_path / str(threshold)
        more = ("--output_dir", out_dir, "--threshold", threshold, "--mask_threshold", threshold)
        assert script("inference_defect_model", *base, *more)[0] == 0
        row = rows_of(out_dir)["a.png"]
        assert row["verdict"] == verdict and float(row["threshold"]) == threshold
        assert float(row["mask_area_fraction"]) == 1 - threshold
        assert not (out_dir / "visualizations").exists()


def test_backbone_mismatch_names_both(trained: Path, folder: Path, tmp_path: Path, script) -> None:
    base = ("--checkpoint", trained / "last.pth", "--image_dir", folder, "--output_dir", tmp_path / "out", *FLAGS)
    status, _, err = script("inference_defect_model", *base, "--backbone", "dinov3_vitb16")
    assert (
        status == 1 and "dinov3_vitb16" in err and "timm:test_efficientnet" in err and not (tmp_path / "out").exists()
    )
    assert script("inference_defect_model", *base, "--backbone", "timm:test_efficientnet")[0] == 3


def test_bad_input_is_one_sentence(trained: Path, folder: Path, tmp_path: Path, script) -> None:
    checkpoint, empty = trained / "last.pth", tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("in the way")
    cases = [
        (("--checkpoint", tmp_path / "no.pth", "--image_dir", folder), "no.pth"),
        (("--checkpoint", folder / "a.png", "--image_dir", folder), "not a checkpoint"),
        (("--checkpoint", checkpoint, "--image_dir", tmp_path / "absent"), "no such folder"),
        (("--checkpoint", checkpoint, "--image_dir", empty), "no images"),
        (("--checkpoint", checkpoint, "--image", tmp_path / "absent.png"), "no such file"),
        (("--checkpoint", checkpoint, "--image_dir", folder, "--output_dir", tmp_path / "file/x"), "--output_dir"),
    ]
    for arguments, message in cases:
        status, _, err = script("inference_defect_model", *arguments, *FLAGS)
        assert status == 1 and message in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_wrong_usage_exits_with_2_and_without_a_trace(trained: Path, script) -> None:
    status, _, err = script("inference_defect_model", "--checkpoint", trained / "last.pth", "--batch_size", "none")
    assert status == 2 and "Traceback" not in err


def test_the_library_call_takes_every_kind_of_image_alike(trained: Path, folder: Path) -> None:
    predictor = DefectPredictor.from_checkpoint(trained / "best_accuracy.pth", device="cpu")
    path = folder / "line 1/a.png"
    array = np.asarray(Image.open(path).convert("RGB"))
    kinds = [path, str(path), Image.open(path), array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    results = predictor(kinds)
    assert len({round(result.defect_probability, 6) for result in results}) == 1
    assert isinstance(predictor(array[..., 0]), Prediction)  # grey
    with pytest.raises(ImageReadError, match="broken.jpg"):
        predictor(folder / "broken.jpg")
    with pytest.raises(TypeError, match="float32"):
        predictor(array.astype(np.float32))
    with pytest.raises(TypeError, match=r"shape \(0, 5, 3\)"):
        predictor(np.zeros((0, 5, 3), np.uint8))


def test_batches_do_not_change_results(trained: Path, folder: Path, tmp_path: Path, script) -> None:
    probabilities = []
    for size in (1, 4):
        out_dir = tmp_path / str(size)
        base = ("--checkpoint", trained / "last.pth", "--image_dir", folder, "--output_dir", out_dir, "--no_visualize")
        script("inference_defect_model", *base, "--batch_size", size, "--num_workers", size - 1, "--device", "cpu")
        probabilities.append([row["defect_probability"] for row in rows_of(out_dir).values() if not row["error"]])
    assert np.allclose(*[np.array(p, float) for p in probabilities], atol=1e-5)


def made_up(size: tuple[int, int], classes: int) -> Prediction:
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 2, size[1] // 2] = 1  # one pixel
    names = ["normal", *(f"a rather long name of type {i}" for i in range(1, classes))]
    return Prediction(
        "reject", names[1], dict.fromkeys(names, 1 / classes), 1 - 1 / classes, 0.4, mask,
        np.full((8, 8), 1 / 64, np.float32), [Region(names[1], (0, 0, 1, 1), [(0, 0)], 1, 1, 1, 0.9, 0.9)], 1.0,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(200, 200), (6000, 8000), (10, 900)])
@pytest.mark.parametrize("classes", [2, 6])
def test_pictures_of_any_size_show_even_a_one_pixel_defect(size: tuple[int, int], classes: int) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    picture = draw_panels(image, made_up(size, classes))
    assert picture.shape == (450, 1680, 3)
    overlay = picture[34:434, 432:832].astype(int)
    assert (np.abs(overlay - [213, 94, 0]).sum(axis=2) < 90).any()  # the defect's colour is in the mask panel


def test_names_of_the_longest_kind_get_results_of_their_own(trained: Path, tmp_path: Path, script) -> None:
    root = tmp_path / "in"
    root.mkdir()
    image, _ = square_image(np.random.default_rng(0), defect=False)
    Image.fromarray(image).save(root / "ok.png")
    for last in "ab":  # 255 bytes: no room for the suffix of their masks
        shutil.copy(root / "ok.png", root / ("n" * 250 + last + ".png"))
    arguments = ("--checkpoint", trained / "last.pth", "--image_dir", root, "--output_dir", tmp_path / "out", *FLAGS)
    status, _, _ = script("inference_defect_model", *arguments)
    rows = rows_of(tmp_path / "out")
    assert status == 0 and len(rows) == 3
    masks = {record["mask"] for record in json.loads((tmp_path / "out/predictions.json").read_text())}
    assert len(masks) == 3 and all(read_mask(tmp_path / "out" / mask).shape == (64, 64) for mask in masks)
    assert len(list((tmp_path / "out/visualizations").iterdir())) == 3
