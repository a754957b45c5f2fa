"""What a training run can be told: each flag of ``train_defect_model.py`` with its type, default and help, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dinov3.defect_cli import (
    BelowOne,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    device_flag,
    flag,
    precision_flag,
    to_record,
)
from dinov3.defect_errors import DefectError
from dinov3.defect_size_flag import SizeInPixels
from dinov3.models.defect_classifier import GuidanceName
from dinov3.models.defect_decoder import DecoderName
from dinov3.models.defect_device import PrecisionName
from dinov3.train.defect_guardrails import WatchedMetric

CONFIG = "config.yaml"
MARK = "# written by train_defect_model.py, which may write it anew\n"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run. Those whose default is None are chosen by
    :func:`~dinov3.train.defect_finetune.resolve`, once backbone and data are known.

    Raises:
        DefectError: two settings exclude each other.
    """

    config: Path | None = flag(None, "YAML file with defaults for these flags")
    data_root: Path = flag(help="dataset folder, as prepare_defect_data.py writes it")
    save_dir: Path = flag(Path("checkpoints/run"), "where checkpoints and logs go")

    backbone: str = flag("dinov3_vitb16", "name of the backbone; timm:NAME takes any timm model", group="model")
    weights: str = flag("default", "'default' (pretrained, downloaded), a local file, or 'none'")
    dinov3_repo: Path | None = flag(None, "official DINOv3 checkout to build the backbone from")
    decoder: DecoderName = flag("full", "mask at full resolution, at stride 4 (faster), or one value per patch")
    guidance: GuidanceName = flag("mask", "let the predicted mask guide the classifier or not")
    score_fusion: bool | None = flag(
        None,
        "the defect score is the mean of the classifier's and the mask's (default: if one defect in 20 has a mask)",
        aliases=("mask_evidence",),
    )
    dropout: Fraction = flag(0.2, "in the classification head")
    freeze_backbone: bool = flag(False, "train the heads alone")
    init_from: Path | None = flag(None, "checkpoint whose weights to start from (the stage before)")

    image_size: SizeInPixels = flag(
        512, "pixels a side the network sees, or their height and width (images are resized to it)", group="data"
    )
    batch_size: PositiveInt = flag(16, "images per step and process")
    num_workers: NonNegativeInt = flag(4, "processes that load images")
    paste_defects: Fraction = flag(
        0.4, "share of normal training images that get a defect of another image pasted in (whole images only)"
    )

    tile_size: NonNegativeInt = flag(
        0,
        "longer side in pixels of the original image; a tile has the shape of --image_size, to which it is resized; "
        "0: whole images",
        group="tiles, for large images",
    )
    tile_overlap: Fraction = flag(0.25, "share of a tile's side that neighbours share, up to 0.75")
    tile_defect_fraction: Fraction = flag(
        0.5, "share of the training crops that are centered on defects; the others walk over all images"
    )
    tiles_per_image: PositiveInt = flag(4, "training crops per image and epoch, on average")

    alpha: NonNegativeFloat = flag(1.0, "weight of the class loss", group="loss")
    beta: NonNegativeFloat = flag(0.5, "weight of the mask loss")
    use_dynamic_weights: bool = flag(False, "move from mask first (0.5, 1.0) to class first (1.0, 0.3)")
    weight_warmup_epochs: NonNegativeInt = flag(20, "length of that move")
    use_uncertainty_weighting: bool = flag(False, "learn both weights (Kendall et al. 2018)")
    class_loss: Literal["ce", "focal"] = flag("ce", "cross-entropy or focal")
    mask_loss: Literal["bce_dice", "focal_dice"] = flag("bce_dice", "per-pixel part beside Dice")
    class_weights: Literal["none", "balanced"] = flag("none", "'balanced' weighs rare classes up")
    label_smoothing: Fraction = flag(0.0, "for cross-entropy")

    epochs: PositiveInt = flag(30, "passes over the training set", group="optimization")
    lr: NonNegativeFloat = flag(1e-3, "peak learning rate of the heads (AdamW)")
    backbone_lr_scale: NonNegativeFloat | None = flag(
        None, "rate of the backbone's last layer as a share of --lr (default: 0.1 a ViT, 0.2 a ConvNet, 1 LoRA)"
    )
    weight_decay: NonNegativeFloat = flag(0.05, "of matrices and kernels")
    grad_clip: NonNegativeFloat = flag(1.0, "largest gradient norm; 0 is off")

    unfreeze_last: NonNegativeInt = flag(0, "train only the backbone's last N blocks; 0: all", group="fine-tuning")
    lora_rank: NonNegativeInt = flag(0, "train adapters of this rank on the backbone; 0: none")
    layer_decay: Fraction | None = flag(
        None, "rate of each backbone layer as a share of the next one's (default: 0.8, a pretrained ViT, or 1)"
    )
    freeze_batch_norm: bool | None = flag(
        None,
        "keep the pretrained statistics of the backbone's BatchNorms (default: unless --weights none)",
        aliases=("rest_norms",),
    )
    drop_path: BelowOne = flag(0.0, "how often the last block is skipped in training; earlier less")
    accumulate: PositiveInt = flag(1, "batches per update: --batch_size times this many images")
    ema_decay: BelowOne = flag(0.0, "average the weights, such as 0.999; 0: off")
    grad_checkpointing: bool | None = flag(
        None, "compute activations twice to save memory (default: for a ViT-L or larger that trains)"
    )
    compile: bool = flag(False, "compile the model with torch.compile")
    fsdp: Literal["auto", "on", "off"] = flag(
        "auto", "keep a share of the model in each process; auto: for ViT-H+ and ViT-7B in more than one process"
    )
    auto_batch: bool = flag(
        False, "find the largest batch that fits; --batch_size is then the least number of images per update"
    )

    seed: NonNegativeInt = flag(42, "of weights, data order and augmentation", group="run")
    mixed_precision: PrecisionName = precision_flag()
    device: str = device_flag()
    resume: bool = flag(False, "go on from last.pth in --save_dir if it is there; start afresh if not")
    save_every_minutes: NonNegativeFloat = flag(10.0, "save within an epoch, too, this often; 0: after each epoch only")
    early_stop_patience: NonNegativeInt = flag(
        0, "end after this many epochs without a better --early_stop_metric; 0: never"
    )
    early_stop_metric: WatchedMetric = flag("pixel_iou", "of the validation images")
    max_skipped_batches: NonNegativeInt = flag(
        10, "how many updates whose loss is not finite a run may skip before it ends"
    )

    def __post_init__(self) -> None:
        other = "--freeze_backbone" if self.freeze_backbone else "--unfreeze_last"
        reasons = {
            "--use_dynamic_weights and --use_uncertainty_weighting both set the loss weights; choose one": (
                self.use_dynamic_weights and self.use_uncertainty_weighting
            ),
            "--score_fusion needs --guidance mask: without guidance, nothing links mask and class": (
                self.score_fusion and self.guidance == "none"
            ),
            f"--lora_rank trains adapters on an otherwise frozen backbone; leave {other} out": (
                self.lora_rank > 0 and (self.freeze_backbone or self.unfreeze_last > 0)
            ),
        }
        problems = [reason for reason, holds in reasons.items() if holds]
        if problems:
            raise DefectError("\n".join(problems))

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.save_dir / "last.pth"

    def record(self) -> dict[str, Any]:
        """The settings as plain values, for checkpoints and ``config.yaml``; what ``config`` held is among them."""
        return {name: value for name, value in to_record(self).items() if name != "config"}

    def save(self) -> None:
        """Make ``save_dir`` with a ``config.yaml`` that starts another run just so.

        Raises:
            DefectError: the folder cannot be written.
        """
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
            text = MARK + yaml.safe_dump(self.record(), allow_unicode=True)
            (self.save_dir / CONFIG).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DefectError(f"--save_dir {self.save_dir}: cannot be written ({error.strerror})") from None
