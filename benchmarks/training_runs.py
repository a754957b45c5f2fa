"""The ways to train that training_speed.py compares, each as a function that trains so many steps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from dinov3.data.defect_transforms import Normalization  # noqa: E402
from dinov3.defect_cli import make_parser, parse  # noqa: E402
from dinov3.defect_distributed import World  # noqa: E402
from dinov3.defect_evaluation.evaluate import to_device  # noqa: E402
from dinov3.models.defect_backbone import build_backbone, find_network, is_vit  # noqa: E402
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss  # noqa: E402
from dinov3.models.defect_device import Precision, compile_model  # noqa: E402
from dinov3.models.defect_layers import checkpoint_activations  # noqa: E402
from dinov3.train.defect_checkpointer import Checkpointer  # noqa: E402
from dinov3.train.defect_config import TrainConfig  # noqa: E402
from dinov3.train.defect_finetune import LARGE, prepare_backbone, resolve  # noqa: E402
from dinov3.train.defect_state import TrainState  # noqa: E402
from dinov3.train.train_defect_classifier import train_one_epoch  # noqa: E402

BARE, FINE, FROZEN, SMP = "bare backbone", "stage 2, fine-tuning", "stage 1, frozen backbone", "smp"
SMP_MULTIPLE = 32  # of pixels a side: both of its networks fail between
Run = Callable[[int], None]  # trains so many steps


class NotPossibleError(Exception):
    """This measurement cannot be made; its text says why."""


class Batches:
    """Stands in for the training loader: the same batch ``count`` times, its pixels on the device already."""

    def __init__(self, batch: dict[str, Any], count: int):
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([self.batch] * self.count)


def training_config(args: argparse.Namespace, extra: Sequence[str]) -> TrainConfig:
    """The settings of a training run with this backbone and size; its default weights decide on its layer decay."""
    flags = ["--data_root", "none", "--backbone", args.backbone, "--image_size", str(args.image_size)]
    flags += ["--batch_size", str(args.batch_size), "--mixed_precision", args.mixed_precision, *extra]
    return parse(TrainConfig, make_parser(TrainConfig, None), flags)


def synthetic_batch(batch_size: int, image_size: int, device: torch.device) -> dict[str, Any]:
    """As the loader delivers it: half of the images are defective, with a tenth of their pixels marked."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, image_size, image_size)
    labels = torch.arange(batch_size) % 2
    masks = (torch.rand(shape, generator=generator) < 0.1) * labels[:, None, None]
    return {
        "image": torch.randint(0, 256, (batch_size, 3, *shape[1:]), dtype=torch.uint8, generator=generator).to(device),
        "mask": masks.to(torch.uint8).to(device),
        "label": labels,
        "has_mask": torch.ones(batch_size, dtype=torch.bool),
        "index": torch.arange(batch_size),
        "error": [""] * batch_size,
    }


def our_run(config: TrainConfig, precision: Precision, compiled: bool) -> Run:
    """The training loop itself, as ``train_defect_model.py`` sets it up for ``config``."""
    device = precision.device
    backbone = build_backbone(config.backbone, "none")  # the values of the weights don't matter here
    config = resolve(config, backbone, has_masks=True)
    model = AttentionGuidedDefectClassifier(
        backbone, backbone.embed_dim, dropout=config.dropout, decoder=config.decoder, guidance=config.guidance
    )
    prepare_backbone(model, config)
    model.to(device, memory_format=torch.channels_last)
    if compiled:
        compile_model(model, device)
    options = {name: getattr(config, name) for name in ("class_loss", "mask_loss", "label_smoothing")}
    criterion = MultiTaskLoss(config.alpha, config.beta, config.use_uncertainty_weighting, **options).to(device)
    config = replace(config, max_skipped_batches=0, save_every_minutes=0)
    state = TrainState(model, criterion, config, updates_per_epoch=10**6, precision=precision)
    checkpointer = Checkpointer(config, {}, World(), device)  # which never has to save
    batch = synthetic_batch(config.batch_size, config.image_size, device)

    def run(steps: int) -> None:
        state.meter.reset()
        train_one_epoch(
            state,
            Batches(batch, steps),
            precision=precision,
            normalization=Normalization(backbone.mean, backbone.std),
            checkpointer=checkpointer,
            progress=False,
        )
        state.optimizer.zero_grad()  # leave the room to the next row

    return run


def plain_run(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    image_size: int,
    config: TrainConfig,
    precision: Precision,
    compiled: bool,
) -> Run:
    """Forward, backward and AdamW, and nothing else; images are normalised already."""
    device = precision.device
    model.to(device, memory_format=torch.channels_last).train()
    if compiled:
        model.compile()
    optimizer = AdamW(model.parameters(), lr=1e-5, fused=True if device.type == "cuda" else None)
    scaler = precision.scaler()
    batch = synthetic_batch(config.batch_size, image_size, device)
    images, labels, masks, _ = to_device(batch, device, Normalization((0.5,) * 3, (0.25,) * 3))

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with precision.autocast():
                loss = loss_of(model, images, labels, masks)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return run


def bare_model(config: TrainConfig) -> nn.Module:
    """The backbone with a linear layer on its class token; it saves memory as ours does, or not."""
    backbone = build_backbone(config.backbone, "none")
    large_vit = not hasattr(backbone, "embed_dims") and backbone.embed_dim >= LARGE
    if large_vit if config.grad_checkpointing is None else config.grad_checkpointing:
        checkpoint_activations(backbone)
    return nn.Sequential(backbone, nn.Linear(backbone.embed_dim, 2))


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def smp_model(backbone: str) -> nn.Module:
    """smp's network on the same encoder: of its decoders only DPT takes a ViT, and ConvNets get the U-Net.

    Raises:
        NotPossibleError: smp is not installed, or has no such pair.
    """
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError:
        raise NotPossibleError("not installed (pip install segmentation-models-pytorch)") from None
    network, options = find_network(backbone)
    build = smp.DPT if is_vit(network) else smp.Unet
    heads = {"classes": 1, "aux_params": {"classes": 2, "dropout": 0.2}}
    trial = torch.zeros(1, 3, 4 * SMP_MULTIPLE, 4 * SMP_MULTIPLE)
    try:
        model = build(encoder_name=f"tu-{network}", encoder_weights=None, **heads, **options).eval()
        with torch.no_grad():
            size = tuple(model(trial)[0].shape[-2:])
    except (ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise NotPossibleError(f"its {build.__name__} does not take this encoder ({error})") from None
    if size != trial.shape[-2:]:
        raise NotPossibleError(f"its {build.__name__} makes masks of {size} for an image of {tuple(trial.shape[-2:])}")
    return model


def builders(args: argparse.Namespace, extra: Sequence[str], precision: Precision) -> dict[str, Callable[[], Run]]:
    """What makes each row's run, by name."""
    fine = training_config(args, extra)
    frozen = replace(fine, freeze_backbone=True, lora_rank=0, unfreeze_last=0)
    criterion = MultiTaskLoss(fine.alpha, fine.beta)

    def class_loss(model: nn.Module, images: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(images).float(), labels)

    def both_losses(model: nn.Module, images: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        mask_logits, logits = model(images)
        return criterion({"classification": logits, "segmentation": mask_logits}, labels, masks)["total_loss"]

    def plain(model: nn.Module, loss: Callable[..., Tensor], multiple: int) -> Run:
        return plain_run(model, loss, round_up(fine.image_size, multiple), fine, precision, args.compile)

    def bare() -> Run:
        model = bare_model(fine)
        # Our model pads its input to a multiple of the patch, or of a ConvNet's largest stride.
        return plain(model, class_loss, model[0].patch_size)

    return {
        BARE: bare,
        FINE: lambda: our_run(fine, precision, args.compile),
        FROZEN: lambda: our_run(frozen, precision, args.compile),
        SMP: lambda: plain(smp_model(args.backbone), both_losses, SMP_MULTIPLE),
    }
