"""A large image by tiles: how their answers blend into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import square_image
from helpers.networks import small_facts
from helpers.tiling import FLAT, SHAPE, TILE

from dinov3.data.defect_tiles import Tiling
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_evaluation.evaluate import View, evaluate
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_classifier import MultiTaskLoss
from dinov3.models.defect_device import resolve_precision
from dinov3.models.defect_engines.torch_engine import TorchEngine
from dinov3.models.defect_sliding_window import slide_window


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


def slide(image: np.ndarray, overlap: float = 0.25, batch_size: int = 3, model=None):
    size, tiling = FLAT, Tiling.for_size(FLAT, TILE, overlap)
    engine = TorchEngine(
        model or Brightness(), small_facts(image_size=size, mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu"
    )
    return slide_window(lambda tiles, _: engine.start(tiles), image, tiling, size, batch_size=batch_size)


@pytest.mark.parametrize("shape", [(150, 230), (64, 64), (65, 200), (31, 150), (7, 9), (128, 127)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.7])
def test_tiles_leave_no_seams(shape: tuple[int, int], overlap: float) -> None:
    rng = np.random.default_rng(0)
    flat = np.full((*shape, 3), 100, np.uint8)
    output = slide(flat, overlap)
    assert output.mask_prob.shape == output.mask_channel.shape == shape
    np.testing.assert_allclose(output.mask_prob, np.full(shape, output.mask_prob[0, 0]), rtol=1e-5)
    # A model that judges each pixel by itself gives the same with and without tiles.
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    direct = Brightness()(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)["segmentation"][0, 0].sigmoid()
    output = slide(image, overlap)
    np.testing.assert_allclose(output.mask_prob, direct.numpy(), atol=1e-5, rtol=0)
    assert not output.mask_channel.any()
    assert output.attention.sum() == pytest.approx(1, abs=1e-4)
    assert [cells * 4 for cells in output.attention.shape] == pytest.approx(shape, abs=4)


def test_one_defective_tile_decides_the_verdict_wherever_it_is() -> None:
    for y, x in ((0, 0), (149, 229), (75, 100)):
        image = np.full((*SHAPE, 3), 20, np.uint8)
        image[y, x] = 250
        for batch_size in (1, 7):
            output = slide(image, batch_size=batch_size)
            assert output.class_prob[1] > 0.95 and output.class_prob.sum() == pytest.approx(1)
            assert np.unravel_index(output.mask_prob.argmax(), SHAPE) == (y, x)
            cell = np.unravel_index(output.attention.argmax(), output.attention.shape)
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
            assert np.isnan(slide(image, batch_size=batch_size, model=Overflowing()).class_prob).all()


def test_validation_losses_do_not_depend_on_how_many_tiles_run_at_a_time() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:40, :50], mask[100:, 100:] = 1, 255
    pixels = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (*SHAPE, 3), dtype=np.uint8))
    image = {"image": pixels, "mask": torch.from_numpy(mask), "label": 1, "has_mask": True, "error": ""}
    broken = {"image": pixels[:1, :1], "mask": image["mask"][:1, :1], "label": -1, "has_mask": False, "error": "broken"}

    def losses(item: dict, batch_size: int) -> dict[str, float]:
        view = View(FLAT, Normalization((0.0,) * 3, (1.0,) * 3), Tiling.for_size(FLAT, TILE))
        options = {"batch_size": batch_size, "precision": resolve_precision("off", torch.device("cpu"))}
        found = evaluate(OneMask(), [item], DefectMetrics(2), view, criterion=MultiTaskLoss(), **options)
        return {name: value for name, value in found.items() if name.startswith("val_")}

    found = [losses(image, batch_size) for batch_size in (1, 4, 100)]
    assert found[0] == pytest.approx(found[1]) and found[1] == pytest.approx(found[2])
    assert set(found[0]) == {"val_total_loss", "val_cls_loss", "val_seg_loss"} and min(found[0].values()) > 0
    assert losses(broken, 4) == dict.fromkeys(found[0], 0.0)  # no image could be read


@pytest.mark.parametrize("size", [64, 96])
def test_an_image_of_one_tile_gives_what_the_model_gives_without_tiles(trained: Path, size: int) -> None:
    image, _ = square_image(np.random.default_rng(5), defect=True, size=size)  # the model's input is 64
    whole = DefectPredictor.from_checkpoint(trained / "last.pth", device="cpu", mask_threshold=0.3)(image)
    options = {"tile_size": size, "tile_overlap": 0.5, "mask_threshold": 0.3}
    tiled = DefectPredictor.from_checkpoint(trained / "last.pth", device="cpu", **options)(image)
    assert tiled.probabilities == whole.probabilities and tiled.regions == whole.regions
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    np.testing.assert_allclose(tiled.attention, whole.attention, rtol=1e-4)
