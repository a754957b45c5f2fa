"""The models that ``accuracy.py`` compares and how they train: this project's, and peers with another network."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
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
    class_trains_decoder: float | None = None  # None: by the share of defects without a mask, as train_defect_model.py
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
