"""How a pretrained backbone is fine-tuned: the flags, and what they do to a model."""

from __future__ import annotations

import argparse

from dinov3.defect_cli import below_one, fraction, non_negative_int, positive_int
from dinov3.defect_errors import DefectError
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_layers import checkpoint_activations, set_drop_path
from dinov3.models.defect_lora import add_lora
from dinov3.train.defect_memory import Demand

LARGE = 1024  # width from which a ViT is ViT-L or larger


def add_finetuning_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this module."""
    group = parser.add_argument_group("fine-tuning")
    add = group.add_argument
    add("--unfreeze_last", type=non_negative_int, default=0, help="train only the backbone's last N blocks; 0: all")
    add("--lora_rank", type=non_negative_int, default=0, help="train adapters of this rank on the backbone; 0: none")
    add(
        "--layer_decay",
        type=fraction,
        help="rate of each backbone layer as a share of the next one's (default: 0.8, a pretrained ViT, or 1)",
    )
    add(
        "--rest_norms",
        action=argparse.BooleanOptionalAction,
        help="the backbone's BatchNorms keep their pretrained statistics (default: unless --weights none)",
    )
    add(
        "--drop_path", type=below_one, default=0.0, help="how often the last block is skipped in training; earlier less"
    )
    add("--accumulate", type=positive_int, default=1, help="batches per update: --batch_size times this many images")
    add("--ema_decay", type=below_one, default=0.0, help="average the weights, such as 0.999; 0: off")
    add(
        "--grad_checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute activations twice to save memory (default: for a ViT-L or larger that trains)",
    )
    add("--compile", action=argparse.BooleanOptionalAction, default=False, help="compile the model with torch.compile")
    add(
        "--fsdp",
        choices=("auto", "on", "off"),
        default="auto",
        help="keep a share of the model in each process; auto: for ViT-H+ and ViT-7B in more than one process",
    )
    add(
        "--auto_batch",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="find the largest batch that fits; --batch_size is then the least number of images per update",
    )


def prepare_backbone(model: AttentionGuidedDefectClassifier, args: argparse.Namespace) -> None:
    """Freeze, adapt and regularize the backbone as the flags say, and put the defaults that depend on it into ``args``.

    Raises:
        DefectError: flags that exclude each other, or that this backbone cannot follow.
    """
    backbone = model.backbone
    if args.lora_rank and (args.freeze_backbone or args.unfreeze_last):
        other = "--freeze_backbone" if args.freeze_backbone else "--unfreeze_last"
        raise DefectError(f"--lora_rank trains adapters on a otherwise frozen backbone; leave {other} out")
    model.freeze_backbone(args.freeze_backbone or args.unfreeze_last > 0, args.unfreeze_last)
    if args.lora_rank:
        add_lora(backbone, args.lora_rank)
    if args.rest_norms is None:
        args.rest_norms = args.weights != "none"
    if args.rest_norms:
        model.freeze_batch_norm()
    if args.drop_path:
        set_drop_path(backbone, args.drop_path)
    is_vit = not hasattr(backbone, "embed_dims")
    if args.grad_checkpointing is None:
        args.grad_checkpointing = is_vit and backbone.embed_dim >= LARGE and not model.backbone_frozen
    if args.grad_checkpointing:
        checkpoint_activations(backbone)
    scale, decay = backbone_rates(is_vit, args.weights != "none" or args.init_from is not None)
    if args.lora_rank:  # adapters start at zero and cannot spoil the weights they sit on
        scale, decay = 1.0, 1.0
    if args.backbone_lr_scale is None:
        args.backbone_lr_scale = scale
    if args.layer_decay is None:
        args.layer_decay = decay


def backbone_rates(is_vit: bool, is_pretrained: bool) -> tuple[float, float]:
    """How fast a backbone's last layer learns, as a share of the heads' rate, and each layer below, of the one above.

    Dense fine-tuning of DINOv2 and DINOv3 is published with a tenth and 0.8 (EoMT, arXiv 2503.19108: 1e-4 and 0.8 at
    batch 16). Random weights have nothing to forget. A fifth for a ConvNet: benchmarks/accuracy.py, on unseen parts.
    """
    return 0.1 if is_vit else 0.2 if is_pretrained else 0.5, 0.8 if is_vit and is_pretrained else 1.0


def memory_demand(model: AttentionGuidedDefectClassifier, args: argparse.Namespace, autocast: bool) -> Demand:
    """What the run of these flags takes."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Demand(
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        image_size=args.image_size,
        parameters=sum(size for size, _ in sizes),
        trained=sum(size for size, trains in sizes if trains),
        averaged=args.ema_decay > 0,
        checkpointed=args.grad_checkpointing,
        autocast=autocast,
    )
