"""What ``accuracy.py`` compares: variants of this project's model and its training, and peers with another network."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.models import defect_layers
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_guidance import uniform_weights


@dataclass(frozen=True)
class Stage:
    """One training run: share of all epochs, and what it does to the backbone and the loss weights."""

    share: float
    frozen: bool = False
    lr: float = 1e-3
    weights: str = "dynamic"  # dynamic, uncertainty, or fixed at alpha and beta
    alpha: float = 1.0
    beta: float = 0.5
    backbone_lr_scale: float | None = None  # None: the default of train_defect_model.py


FROZEN, FINETUNE = Stage(1 / 8, frozen=True, weights="fixed"), Stage(6 / 8)
THREE_STAGES = (FROZEN, FINETUNE, Stage(1 / 8, weights="uncertainty", lr=5e-5))
TWO_STAGES = (FROZEN, Stage(7 / 8, weights="fixed"))


@dataclass(frozen=True)
class Variant:
    """A model and how it is trained."""

    what: str
    stages: tuple[Stage, ...] = THREE_STAGES
    options: dict[str, Any] = field(default_factory=dict)  # of the classifier
    paste_defects: float = 0.4
    freeze_batch_norm: bool = True  # of the backbone: it keeps its pretrained statistics
    peer: str = ""  # a network of segmentation_models_pytorch

    @property
    def fuses_scores(self) -> bool:
        """Whether the mask's score counts in the verdict, where there are enough masks."""
        return not self.peer and self.options.get("score_fusion", True) and self.options.get("guidance") != "none"

    def build(self, backbone: str, weights: str) -> tuple[nn.Module, Normalization]:
        """The model, with the backbone's weights, and how its input is normalised."""
        network = build_backbone(backbone, weights)
        normalization = Normalization(network.mean, network.std)
        if self.peer:
            model = Peer(self.peer, network)
        else:
            model = AttentionGuidedDefectClassifier(network, network.embed_dim, 2, 1, 0.2, **self.options)
        if self.freeze_batch_norm and weights != "none":
            model.freeze_batch_norm()
        return model, normalization


VARIANTS = {
    "guided": Variant("attention-guided: the default"),
    "no_fusion": Variant(
        "the same without score fusion: the classifier's verdict alone", options={"score_fusion": False}
    ),
    "dual_branch": Variant("the same without a link from mask to class", options={"guidance": "none"}),
    "progressive": Variant(
        "dual branch that learns masks first, then classes",
        (
            Stage(1 / 8, frozen=True, weights="fixed", alpha=0.0, beta=1.0),
            Stage(3 / 8, weights="fixed", alpha=0.0, beta=1.0),
            Stage(4 / 8, weights="fixed", alpha=1.0, beta=0.3),
        ),
        {"guidance": "none"},
    ),
    "unfrozen_batch_norm": Variant("the backbone's BatchNorms follow the batches", freeze_batch_norm=False),
    "faster_backbone": Variant(
        "the backbone at half the heads' rate",
        (FROZEN, replace(FINETUNE, backbone_lr_scale=0.5), replace(THREE_STAGES[2], backbone_lr_scale=0.5)),
    ),
    "slower_backbone": Variant(
        "the backbone at a tenth of the heads' rate",
        (FROZEN, replace(FINETUNE, backbone_lr_scale=0.1), replace(THREE_STAGES[2], backbone_lr_scale=0.1)),
    ),
    "frozen": Variant("the backbone never trains", (Stage(1.0, frozen=True, weights="fixed"),)),
    "frozen_dual_branch": Variant(
        "nor does it here, without guidance", (Stage(1.0, frozen=True, weights="fixed"),), {"guidance": "none"}
    ),
    "multiscale_decoder": Variant("mask at stride 4", options={"decoder": "multiscale"}),
    "light_decoder": Variant("one mask value per patch", options={"decoder": "light"}),
    "two_stages": Variant("no third stage, fixed weights", TWO_STAGES),
    "one_stage": Variant("everything trains from the start, fixed weights", (Stage(1.0, weights="fixed"),)),
    "no_paste": Variant("no defects pasted onto good images", paste_defects=0.0),
    "unet": Variant("U-Net with a class head on the encoder", TWO_STAGES, peer="Unet"),
    "unet_unfrozen_batch_norm": Variant(
        "the same, BatchNorms follow the batches", TWO_STAGES, freeze_batch_norm=False, peer="Unet"
    ),
    "fpn": Variant("FPN with a class head on the encoder", TWO_STAGES, peer="FPN"),
    "dpt": Variant("DPT with a class head on the encoder, for a ViT", TWO_STAGES, peer="DPT"),
}


class Peer(nn.Module):
    """A network of segmentation_models_pytorch with its class head, on the encoder and weights of ``backbone``, behind
    the interface that the training loop expects."""

    pad_multiple = 1

    def __init__(self, architecture: str, backbone: nn.Module):
        super().__init__()
        import segmentation_models_pytorch as smp

        timm_name = backbone.network.pretrained_cfg["architecture"]
        network = getattr(smp, architecture)(
            f"tu-{timm_name}", encoder_weights=None, classes=1, aux_params={"classes": 2, "dropout": 0.2}
        )
        self.backbone = network.encoder  # named so, as the optimizer gives it a rate of its own
        self.network = network
        self.backbone_frozen, self.batch_norm_frozen = False, False
        self._take_weights(backbone.network.state_dict())

    def _take_weights(self, source: dict[str, Tensor]) -> None:
        own = self.backbone.model.state_dict()
        missing = [key for key in own if key not in source or source[key].shape != own[key].shape]
        if missing:
            raise DefectError(f"the peer's encoder is not the backbone: {', '.join(missing[:4])} not found in it")
        self.backbone.model.load_state_dict({key: source[key] for key in own})

    def freeze_backbone(self, frozen: bool) -> None:
        """As the classifier's."""
        self.backbone_frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    def freeze_batch_norm(self) -> None:
        """As the classifier's."""
        self.batch_norm_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Peer:
        """As the classifier's: what is frozen in the encoder stays in eval mode."""
        super().train(mode)
        defect_layers.hold_frozen_parts(self.backbone, self.batch_norm_frozen)
        return self

    def forward(self, images: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        """Class logits (B, 2) and mask logits (B, 1, H, W); it looks everywhere alike."""
        with torch.no_grad() if self.backbone_frozen else contextlib.nullcontext():
            features = self.backbone(images)
        if isinstance(features, tuple):  # a ViT's maps and class tokens
            decoded, deepest = self.network.decoder(*features), features[0][-1]
        else:
            decoded, deepest = self.network.decoder(features), features[-1]
        masks = self.network.segmentation_head(decoded)
        outputs = {"classification": self.network.classification_head(deepest), "segmentation": masks}
        return outputs | {"attention_map": uniform_weights(masks)} if return_attention else outputs
