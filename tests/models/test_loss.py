"""The loss and the schedule of its weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinov3.models.defect_classifier import DynamicWeightScheduler, MultiTaskLoss


def batch(seg_channels: int = 1) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Random outputs, labels and masks of 3 images, 8 x 8."""
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "classification": torch.randn(3, 2, generator=generator, requires_grad=True),
        "segmentation": torch.randn(3, seg_channels, 8, 8, generator=generator, requires_grad=True),
    }
    masks = torch.zeros(3, 8, 8, dtype=torch.uint8)
    masks[1, 2:5, 2:5] = 1
    return outputs, torch.tensor([0, 1, 1]), masks


def perfect(masks: Tensor, seg_channels: int) -> Tensor:
    """Logits that are sure of the mask."""
    values = torch.arange(1, seg_channels + 1).view(1, -1, 1, 1)
    return torch.where(masks[:, None] == values, 20.0, -20.0)


def test_total_is_the_weighted_sum_and_attributes_may_change() -> None:
    outputs, labels, masks = batch()
    criterion = MultiTaskLoss(alpha=1.0, beta=0.5, use_uncertainty_weighting=False)
    losses = criterion(outputs, labels, masks)
    assert losses["total_loss"].item() == pytest.approx((losses["cls_loss"] + 0.5 * losses["seg_loss"]).item())
    criterion.alpha, criterion.beta = 0.0, 2.0
    losses = criterion(outputs, labels, masks)
    assert losses["total_loss"].item() == pytest.approx(2 * losses["seg_loss"].item())
    assert losses["beta"].item() == 2.0


@pytest.mark.parametrize("mask_loss", ["bce_dice", "focal_dice"])
@pytest.mark.parametrize("seg_channels", [1, 3])
def test_a_perfect_mask_costs_nothing_and_a_wrong_one_costs_much(mask_loss: str, seg_channels: int) -> None:
    outputs, labels, masks = batch(seg_channels)
    masks[2, 5:7, 5:7] = seg_channels
    criterion = MultiTaskLoss(mask_loss=mask_loss)
    right = perfect(masks, seg_channels)
    assert criterion(outputs | {"segmentation": right}, labels, masks)["seg_loss"] < 1e-3
    assert criterion(outputs | {"segmentation": -right}, labels, masks)["seg_loss"] > 1


def test_ignored_pixels_and_absent_masks_count_for_nothing() -> None:
    outputs, labels, masks = batch()
    criterion = MultiTaskLoss()
    ignored = masks.clone()
    ignored[0, :4] = 255
    changed = outputs["segmentation"].detach().clone()
    changed[0, :, :4] += 5
    one = criterion(outputs, labels, ignored)["seg_loss"]
    assert criterion(outputs | {"segmentation": changed}, labels, ignored)["seg_loss"] == one

    without = criterion(outputs, labels, masks, has_mask=torch.tensor([True, True, False]))["seg_loss"]
    first_two = {name: value[:2] for name, value in outputs.items()}
    assert without.item() == pytest.approx(criterion(first_two, labels[:2], masks[:2])["seg_loss"].item())


def test_a_small_defect_counts_as_much_as_a_large_one() -> None:
    """Found or missed, it moves the mask loss by about its share of the defects, not of the pixels."""
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, :, :32], masks[1, :4, :4] = 1, 1
    right, labels = perfect(masks, 1), torch.ones(2, dtype=torch.long)
    missed = right.clone()
    missed[1] = -4.0
    outputs = {"classification": torch.zeros(2, 2)}
    found, lost = (MultiTaskLoss()(outputs | {"segmentation": m}, labels, masks)["seg_loss"] for m in (right, missed))
    assert found < 1e-3 and lost > 0.4


def test_sums_of_parts_of_a_batch_add_up_to_its_own() -> None:
    outputs, labels, masks = batch(2)
    criterion = MultiTaskLoss()
    parts = [
        criterion.sums({name: value[rows] for name, value in outputs.items()}, labels[rows], masks[rows])
        for rows in (slice(1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), criterion.sums(outputs, labels, masks))


@pytest.mark.parametrize("learned", [False, True])
def test_a_batch_without_any_mask_or_label_trains_on(learned: bool) -> None:
    outputs, _, masks = batch()
    criterion = MultiTaskLoss(use_uncertainty_weighting=learned)
    losses = criterion(outputs, torch.full((3,), -1), masks, has_mask=torch.zeros(3, dtype=torch.bool))
    assert losses["cls_loss"] == 0 and losses["seg_loss"] == 0
    losses["total_loss"].backward()
    assert not outputs["segmentation"].grad.any() and not outputs["classification"].grad.any()
    if learned:
        assert not criterion.log_vars.grad.any()


def test_class_loss_choices() -> None:
    outputs, labels, masks = batch()
    logits = outputs["classification"]
    expected = torch.nn.functional.cross_entropy(logits, labels, torch.tensor([1.0, 3.0]))
    weighted = MultiTaskLoss(class_weights=torch.tensor([1.0, 3.0]))(outputs, labels, masks)
    assert weighted["cls_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    smooth = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    got = MultiTaskLoss(label_smoothing=0.1)(outputs, labels, masks)["cls_loss"]
    assert got.item() == pytest.approx(smooth.item(), rel=1e-5)
    plain, focal = (MultiTaskLoss(class_loss=c)(outputs, labels, masks)["cls_loss"] for c in ("ce", "focal"))
    assert 0 < focal < plain
    with pytest.raises(ValueError, match="'ce' or 'focal'"):
        MultiTaskLoss(class_loss="hinge")


def test_uncertainty_weighting_follows_kendall_and_starts_at_alpha_and_beta() -> None:
    outputs, labels, masks = batch()
    criterion = MultiTaskLoss(alpha=1.0, beta=0.5, use_uncertainty_weighting=True)
    losses = criterion(outputs, labels, masks)
    s_mask = math.log(2)  # exp(-s) = 0.5
    expected = losses["cls_loss"] + 0.5 * losses["seg_loss"] + 0.5 * s_mask
    assert losses["total_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["total_loss"].backward()
    # d/ds [exp(-s) L + s/2] = -exp(-s) L + 1/2
    assert criterion.log_vars.grad[1].item() == pytest.approx((-0.5 * losses["seg_loss"] + 0.5).item(), rel=1e-4)
    with torch.no_grad():
        criterion.log_vars.fill_(100.0)
    losses = criterion(outputs, labels, masks)
    assert losses["alpha"].item() == pytest.approx(math.exp(-5))
    criterion.zero_grad()
    losses["total_loss"].backward()
    assert (criterion.log_vars.grad > 0.4).all()  # at the limit, and on its way back


def test_masks_of_another_size_are_named() -> None:
    outputs, labels, masks = batch()
    with pytest.raises(ValueError, match=r"\(4, 8\).*\(8, 8\)"):
        MultiTaskLoss()(outputs, labels, masks[:, :4])


def test_dynamic_weights_follow_the_table() -> None:
    scheduler = DynamicWeightScheduler(alpha_start=0.5, alpha_end=1.0, beta_start=1.0, beta_end=0.3, warmup_epochs=20)
    table = {0: (0.5, 1.0), 5: (0.625, 0.825), 10: (0.75, 0.65), 20: (1.0, 0.3), 69: (1.0, 0.3)}
    for epoch, expected in table.items():
        assert scheduler.get_weights(epoch) == pytest.approx(expected)
    assert DynamicWeightScheduler(warmup_epochs=0).get_weights(0) == pytest.approx((1.0, 0.3))
