"""Check that the model works on this machine: forward pass, loss, schedule, gradients in each stage, sizes.

python examples/test_model.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import _bootstrap  # noqa: F401  puts the repository first on sys.path
import torch
from torch import Tensor

from dinov3.defect_cli import flag, make_parser, parse
from dinov3.defect_errors import run_script
from dinov3.models.defect_backbone import build_backbone, list_backbones
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, DynamicWeightScheduler, MultiTaskLoss

B, K, H, W = 2, 2, 96, 64


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What can be set."""

    backbone: str = flag("dinov3_vitt16", "the one to run (random weights)")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(CheckConfig, __doc__)


def small_model(backbone: str) -> AttentionGuidedDefectClassifier:
    """A model with random weights."""
    module = build_backbone(backbone, "none")
    return AttentionGuidedDefectClassifier(backbone=module, embed_dim=module.embed_dim, num_classes=K)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W), labels (B,), masks (B, H, W): one normal image, one with a square defect."""
    masks = torch.zeros(B, H, W, dtype=torch.uint8)
    masks[1, 20:40, 20:40] = 1
    return torch.randn(B, 3, H, W), torch.tensor([0, 1]), masks


def check_forward(backbone: str) -> str:
    """Shapes and finite values, at a size that is no multiple of the patch too."""
    model = small_model(backbone).eval()
    for height, width in ((H, W), (H + 5, W - 3)):
        with torch.no_grad():
            out = model(torch.randn(B, 3, height, width), return_attention=True)
        expect(out["classification"].shape == (B, K), f"classification is {tuple(out['classification'].shape)}")
        expect(
            out["segmentation"].shape == (B, 1, height, width), f"segmentation is {tuple(out['segmentation'].shape)}"
        )
        expect(all(bool(value.isfinite().all()) for value in out.values()), "an output is not finite")
        total = out["attention_map"].sum(dim=(1, 2, 3))
        expect(torch.allclose(total, torch.ones(B)), f"attention adds up to {total.tolist()}")
    return f"class logits {B}x{K}, mask logits at input size, also at {H + 5}x{W - 3}"


def check_loss(backbone: str) -> str:
    """Finite losses with and without masks; their weights."""
    images, labels, masks = batch()
    out = small_model(backbone)(images)
    losses = MultiTaskLoss(alpha=1.0, beta=0.5)(out, labels, masks)
    expected = losses["cls_loss"] + 0.5 * losses["seg_loss"]
    expect(torch.isclose(losses["total_loss"], expected), f"total {losses['total_loss']:.4f}, expected {expected:.4f}")
    bare = MultiTaskLoss()(out, labels, masks, has_mask=torch.zeros(B, dtype=torch.bool))
    expect(bare["seg_loss"].item() == 0, f"mask loss without masks is {bare['seg_loss']:.4f}, expected 0")
    return f"class {losses['cls_loss']:.3f}, mask {losses['seg_loss']:.3f}, total {losses['total_loss']:.3f}"


def check_scheduler() -> str:
    """Start, middle and end of the dynamic weights."""
    scheduler = DynamicWeightScheduler()
    values = [tuple(round(v, 3) for v in scheduler.get_weights(epoch)) for epoch in (0, 10, 20, 50)]
    expect(values == [(0.5, 1.0), (0.75, 0.65), (1.0, 0.3), (1.0, 0.3)], f"weights are {values}")
    return "alpha 0.5 -> 1.0, beta 1.0 -> 0.3 over 20 epochs"


def check_gradients(backbone: str) -> str:
    """Stage 1 trains the heads alone, stage 2 everything, stage 3 the loss weights too."""
    images, labels, masks = batch()
    for frozen, learned in ((True, False), (False, False), (False, True)):
        model, criterion = small_model(backbone).train(), MultiTaskLoss(use_uncertainty_weighting=learned)
        model.freeze_backbone(frozen)
        criterion(model(images), labels, masks)["total_loss"].backward()
        reached = any(p.grad is not None and bool(p.grad.any()) for p in model.backbone.parameters())
        expect(reached != frozen, f"backbone gradients: {reached}, frozen: {frozen}")
        heads = {n: p for n, p in model.named_parameters() if not n.startswith("backbone.")}
        dead = [n for n, p in heads.items() if p.grad is None]
        expect(not dead, f"no gradient in {dead[:3]}")
        if learned:
            expect(bool(criterion.log_vars.grad.all()), "no gradient in the log-variances")
    return "frozen: heads alone; fine-tune: all; uncertainty: all and the loss weights"


def expect(condition: bool, text: str) -> None:
    """Fail a check with a readable line."""
    if not condition:
        raise RuntimeError(text)


def print_sizes() -> None:
    """Parameters of every backbone, built without memory, and of the heads on it."""
    print(f"\n{'backbone':<26}{'backbone M':>12}{'heads M':>10}{'total M':>10}{'width':>8}{'patch':>7}")
    for name in list_backbones():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the patch-14 note
            model = small_model(name)
        total = sum(p.numel() for p in model.parameters()) / 1e6
        own = sum(p.numel() for p in model.backbone.parameters()) / 1e6
        backbone = model.backbone
        print(
            f"{name:<26}{own:>12.2f}{total - own:>10.2f}{total:>10.2f}{backbone.embed_dim:>8}{backbone.patch_size:>7}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks; 1 if one failed."""
    config = parse(CheckConfig, build_parser(), argv)
    torch.manual_seed(0)
    checks = {
        "forward pass": partial(check_forward, config.backbone),
        "loss": partial(check_loss, config.backbone),
        "weight schedule": check_scheduler,
        "gradient flow": partial(check_gradients, config.backbone),
    }
    failed = 0
    for name, check in checks.items():
        try:
            print(f"ok      {name}: {check()}")
        except RuntimeError as error:
            failed += 1
            print(f"FAILED  {name}: {error}")
    print_sizes()
    print("\nall checks passed" if not failed else f"\n{failed} of {len(checks)} checks failed")
    return int(failed > 0)


if __name__ == "__main__":
    run_script(main)
