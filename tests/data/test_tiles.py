"""Large images by tiles: where tiles lie, how they blend into one answer, and the scripts' whole path."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import train_defect_model
from conftest import TRAIN_FLAGS, square_image
from helpers.tiling import SHAPE, TILE, write_large
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dinov3.train.train_defect_classifier as loop
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import read_mask
from dinov3.data.defect_tiles import Tiling, cut_tile, walk_length, walk_step
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.defect_evaluation.tile_evaluation import TileLosses, evaluate_tiles
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_classifier import MultiTaskLoss
from dinov3.models.defect_device import resolve_device, resolve_precision
from dinov3.models.defect_sliding_window import slide_window

sides = st.integers(1, 400)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Don't change it."""
    return write_large(tmp_path_factory.mktemp("large") / "data")


# --- the grid and its weights


@settings(deadline=None)
@given(length=sides, size=st.integers(16, 100), overlap=st.floats(0, 0.75))
def test_the_grid_covers_every_pixel_and_its_weights_add_up_to_one(length: int, size: int, overlap: float) -> None:
    tiling = Tiling(size, overlap)
    starts, weights = tiling.starts(length), tiling.weights(length)
    total = np.zeros(max(length, size))
    for start, weight in zip(starts, weights, strict=True):
        assert 0 <= start <= max(length - size, 0)
        total[start : start + size] += weight
    np.testing.assert_allclose(total[:length], 1, atol=1e-5)
    assert all(size - (b - a) >= round(size * overlap) - 1 for a, b in zip(starts, starts[1:], strict=False))


def test_a_tile_counts_least_at_its_border() -> None:
    first, second, _ = Tiling(64, 0.25).weights(160)
    assert first[0] == 1 and first[47] == 1  # alone there
    assert (np.diff(first[48:]) < 0).all() and first[63] < 0.1
    np.testing.assert_allclose(first[48:] + second[:16], 1, atol=1e-6)


@pytest.mark.parametrize(("size", "overlap", "flag"), [(8, 0.25, "--tile_size 8"), (64, 0.9, "--tile_overlap 0.9")])
def test_tiles_that_make_no_sense_are_refused(size: int, overlap: float, flag: str) -> None:
    with pytest.raises(DefectError, match=flag):
        Tiling(size, overlap)


def test_what_lies_outside_is_mirrored_or_marked() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    mirrored = cut_tile(image, 0, 0, 6)
    assert mirrored.shape == (6, 6) and mirrored[:3, :4].tolist() == image.tolist()
    assert mirrored[0, 4] == image[0, 2] and mirrored[3, 0] == image[1, 0]
    assert (cut_tile(image, 0, 0, 6, outside=255)[3:] == 255).all()
    assert cut_tile(image, 1, 2, 2).tolist() == [[6, 7], [10, 11]]
    assert cut_tile(np.zeros((1, 1, 3), np.uint8), 0, 0, 40).shape == (40, 40, 3)


@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(sides, sides), size=st.integers(16, 100), seed=st.integers(0, 9), lap=st.integers(0, 3))
def test_each_lap_of_a_walk_reaches_every_pixel(shape: tuple[int, int], size: int, seed: int, lap: int) -> None:
    seen = np.zeros(shape, bool)
    length = walk_length(shape, size)
    for step in range(lap * length, (lap + 1) * length):
        top, left = walk_step(shape, size, (seed, 5), step)
        assert 0 <= top <= max(shape[0] - size, 0) and 0 <= left <= max(shape[1] - size, 0)
        seen[top : top + size, left : left + size] = True
    assert seen.all()


def test_laps_differ_so_that_borders_fall_elsewhere() -> None:
    laps = [[walk_step(SHAPE, TILE, (1, 2), lap * 20 + i) for i in range(20)] for lap in range(2)]
    assert walk_length(SHAPE, TILE) == 20 and set(laps[0]) != set(laps[1])
    assert [walk_step(SHAPE, TILE, (1, 2), i) for i in range(20)] == laps[0]


# --- sliding


class Brightness(torch.nn.Module):
    """Mask logits 4 where bright and -4 where dark; the class follows the brightest pixel."""

    def forward(self, images: torch.Tensor, return_attention: bool = False) -> dict[str, torch.Tensor]:
        bright = images.mean(dim=1, keepdim=True)
        peak = bright.amax(dim=(1, 2, 3))
        logits = (bright - 0.5) * 8
        attention = torch.nn.functional.avg_pool2d(bright + 1e-3, 4)
        return {
            "classification": torch.stack([torch.zeros_like(peak), (peak - 0.5) * 8], dim=1),
            "segmentation": torch.cat([logits, -logits - 20], dim=1),
            "attention_map": attention / attention.sum(dim=(2, 3), keepdim=True),
        }


class OneMask(Brightness):
    """The same with one mask channel."""

    def forward(self, images: torch.Tensor, return_attention: bool = False) -> dict[str, torch.Tensor]:
        outputs = super().forward(images, return_attention)
        return outputs | {"segmentation": outputs["segmentation"][:, :1]}


def slide(image: np.ndarray, tiling: Tiling, image_size: int, batch_size: int = 3, model=None):
    precision = resolve_precision("off", resolve_device("cpu"))
    plain = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    model = model or Brightness()
    options = {"batch_size": batch_size, "precision": precision, "normalization": plain}
    return slide_window(model, image, tiling, image_size, **options)


@pytest.mark.parametrize("shape", [(150, 230), (64, 64), (65, 200), (31, 150), (7, 9), (128, 127)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.7])
def test_tiles_leave_no_seams(shape: tuple[int, int], overlap: float) -> None:
    rng = np.random.default_rng(0)
    flat = np.full((*shape, 3), 100, np.uint8)
    output = slide(flat, Tiling(TILE, overlap), TILE)
    assert output.mask_prob.shape == output.mask_channel.shape == shape
    torch.testing.assert_close(output.mask_prob, output.mask_prob[:1, :1].expand(shape))
    # A model that judges each pixel by itself gives the same with and without tiles.
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    direct = Brightness()(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)["segmentation"][0, 0].sigmoid()
    output = slide(image, Tiling(TILE, overlap), TILE)
    torch.testing.assert_close(output.mask_prob, direct, atol=1e-5, rtol=0)
    assert not output.mask_channel.any()
    assert output.attention.sum() == pytest.approx(1, abs=1e-4)
    assert output.attention.shape[0] * 4 == pytest.approx(shape[0], abs=4)


def test_one_defective_tile_decides_the_verdict_wherever_it_is() -> None:
    for y, x in ((0, 0), (149, 229), (75, 100)):
        image = np.full((*SHAPE, 3), 20, np.uint8)
        image[y, x] = 250
        for batch_size in (1, 7):
            output = slide(image, Tiling(TILE), TILE, batch_size)
            assert output.class_prob[1] > 0.95 and output.class_prob.sum() == pytest.approx(1)
            assert np.unravel_index(output.mask_prob.argmax().item(), SHAPE) == (y, x)
            cell = np.unravel_index(output.attention.argmax().item(), output.attention.shape)
            assert np.abs(np.array(cell) * 4 - (y, x)).max() <= 5


class Overflowing(Brightness):
    """NaN for a tile with a white pixel."""

    def forward(self, images: torch.Tensor, return_attention: bool = False) -> dict[str, torch.Tensor]:
        outputs = super().forward(images, return_attention)
        outputs["classification"][(images.amax(dim=(1, 2, 3)) == 1)] = torch.nan
        return outputs


def test_a_tile_without_an_answer_is_not_hidden_by_others() -> None:
    for y, x in ((0, 0), (149, 229), (75, 100)):
        image = np.full((*SHAPE, 3), 20, np.uint8)
        image[80, 120], image[y, x] = 250, 255
        for batch_size in (1, 7):
            assert slide(image, Tiling(TILE), TILE, batch_size, Overflowing()).class_prob.isnan().all()


def test_validation_losses_do_not_depend_on_how_many_tiles_run_at_a_time() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:40, :50], mask[100:, 100:] = 1, 255
    image = {"mask": torch.from_numpy(mask), "label": 1, "has_mask": True}
    found = []
    for batch_size in (1, 4, 100):
        losses = TileLosses(MultiTaskLoss(), Tiling(TILE), TILE, torch.device("cpu"))
        pixels = np.random.default_rng(4).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
        options = {"batch_size": batch_size, "precision": resolve_precision("off", torch.device("cpu"))}
        plain = Normalization((0.0,) * 3, (1.0,) * 3)
        slide_window(OneMask(), pixels, Tiling(TILE), TILE, normalization=plain, watch=losses.watch(image), **options)
        found.append(losses.values())
    assert found[0] == pytest.approx(found[1]) and found[1] == pytest.approx(found[2])
    assert set(found[0]) == {"val_total_loss", "val_cls_loss", "val_seg_loss"} and min(found[0].values()) > 0
    nothing = TileLosses(MultiTaskLoss(), Tiling(TILE), TILE, torch.device("cpu"))  # no image could be read
    assert nothing.values() == dict.fromkeys(found[0], 0.0)


@pytest.mark.parametrize("size", [64, 96])
def test_an_image_of_one_tile_gives_what_the_model_gives_without_tiles(trained: Path, size: int) -> None:
    image, _ = square_image(np.random.default_rng(5), defect=True, size=size)  # the model's input is 64
    whole = DefectPredictor.from_checkpoint(trained / "last.pth", device="cpu", mask_threshold=0.3)(image)
    options = {"tile_size": size, "tile_overlap": 0.5, "mask_threshold": 0.3}
    tiled = DefectPredictor.from_checkpoint(trained / "last.pth", device="cpu", **options)(image)
    assert tiled.probabilities == whole.probabilities and tiled.regions == whole.regions
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    np.testing.assert_allclose(tiled.attention, whole.attention, rtol=1e-4)


def test_pixel_metrics_of_a_large_image_count_every_pixel() -> None:
    rng = np.random.default_rng(0)
    prob = rng.random((1, 1100, 1300), np.float32)
    truth = rng.integers(0, 3, (1, 11, 13), dtype=np.uint8).repeat(100, axis=1).repeat(100, axis=2)
    truth[truth == 2] = 255
    metrics = DefectMetrics(2)
    facts = (torch.tensor([1]), torch.from_numpy(truth), torch.tensor([True]))
    metrics.update_probabilities(torch.tensor([[0.2, 0.8]]), torch.from_numpy(prob), *facts)
    result, predicted = metrics.compute(), prob >= 0.5
    overlap, union = (predicted & (truth == 1)).sum(), ((predicted & (truth == 0)) | (truth == 1)).sum()
    assert result["pixel_iou"] == pytest.approx(overlap / union, abs=1e-5)
    assert result["mean_iou_defect"] == pytest.approx(overlap / union, abs=1e-5)
    assert metrics.curves.positive.sum() == (truth == 1).sum() and metrics.curves.negative.sum() == (truth == 0).sum()


# --- the scripts


@pytest.fixture(scope="module")
def by_tiles(large: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two epochs on tiles."""
    folder = tmp_path_factory.mktemp("by_tiles") / "run"
    train_defect_model.main([str(a) for a in train_flags(large, folder, "--epochs", 2)])
    return folder


def train_flags(large: Manifest, folder: Path, *more: object) -> list[object]:
    tiles = ("--tile_size", TILE, "--tile_defect_fraction", 0.6, "--tiles_per_image", 3)
    return ["--data_root", large.root, "--save_dir", folder, *TRAIN_FLAGS, *tiles, *more]


def test_training_validates_on_whole_images_and_stores_its_tiles(by_tiles: Path) -> None:
    lines = [json.loads(line) for line in (by_tiles / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(math.isfinite(line["val_total_loss"]) for line in lines)
    assert sum(map(sum, lines[0]["confusion"])) == 4  # images, not tiles
    content = load_checkpoint(by_tiles / "last.pth")
    assert Tiling.of(content) == Tiling(TILE, 0.25)
    assert Tiling.of(content, overlap=0.5) == Tiling(TILE, 0.5) and Tiling.of(content, size=0) is None


def test_a_run_on_tiles_goes_on_exactly_and_only_with_the_same_tiles(
    large: Manifest, by_tiles: Path, tmp_path: Path, script, monkeypatch
) -> None:
    folder = tmp_path / "run"

    def stop(*args: object, **options: object) -> None:
        if options["description"] == "epoch 2 val":
            raise KeyboardInterrupt
        return evaluate_tiles(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "evaluate_tiles", stop)
        train_defect_model.main([str(a) for a in train_flags(large, folder, "--epochs", 2)])
    assert load_checkpoint(folder / "last.pth")["epoch"] == 1
    for flag, old, new in (
        ("--tile_overlap", 0.25, 0.5),
        ("--tile_size", 64, 48),
        ("--tile_defect_fraction", 0.6, 0.1),
    ):
        status, _, err = script("train_defect_model", *train_flags(large, folder, "--epochs", 2, "--resume", flag, new))
        assert status == 1 and f"{flag} was {old}, now {new}" in err
    assert script("train_defect_model", *train_flags(large, folder, "--epochs", 2, "--resume"))[0] == 0
    one, other = (load_checkpoint(f / "last.pth")["model"] for f in (by_tiles, folder))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--tile_size", 4, "--tile_size 4: expected at least 16"),
        ("--tile_overlap", 0.8, "--tile_overlap 0.8: expected a share"),
        ("--tile_defect_fraction", 1, "--tile_defect_fraction 1.0: expected from 0 to less than 1"),
    ],
)
def test_flags_that_make_no_sense_say_so(large, tmp_path: Path, script, flag: str, value: float, message: str) -> None:
    status, _, err = script("train_defect_model", *train_flags(large, tmp_path / "run", flag, value))
    assert status == 1 and message in err and not (tmp_path / "run").exists()


def test_evaluation_and_inspection_use_the_tiles_of_the_checkpoint(large, by_tiles: Path, tmp_path, script) -> None:
    base = ("--checkpoint", by_tiles / "best_accuracy.pth", "--device", "cpu", "--num_workers", 0)
    report = tmp_path / "metrics.json"
    status, out, err = script("evaluate_defect_model", *base, "--data_root", large.root, "--output", report)
    assert status == 0 and "by tiles of 64 px" in out, err
    metrics = json.loads(report.read_text())
    assert sum(map(sum, metrics["confusion"])) == 4 and 0 <= metrics["pixel_ap"] <= 1
    folders = {"default": (), "same": ("--tile_size", TILE), "none": ("--tile_size", 0)}
    rows = {}
    for name, flags in folders.items():
        out_dir = tmp_path / name
        arguments = ("--image_dir", large.root / "images/test", "--output_dir", out_dir, *flags)
        assert script("inference_defect_model", *base, *arguments)[0] == 0
        with (out_dir / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows[name] = [row["defect_probability"] for row in csv.DictReader(file)]
        assert read_mask(out_dir / "masks/001.png.png").shape == SHAPE
        assert Image.open(out_dir / "visualizations/001.png.png").size == (1680, 450)
    assert rows["default"] == rows["same"] != rows["none"]
