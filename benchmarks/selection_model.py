"""The model that ``selection_gain.py`` trains dozens of times: the backbone never trains, so its maps of all images are
kept in memory, as they are and mirrored, and only the heads cost anything."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from dinov3.data.defect_dataset import as_tensor
from dinov3.data.defect_images import read_for_size
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import read_mask
from dinov3.data.defect_resize import resize_image
from dinov3.data.defect_transforms import Normalization
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.models.defect_novelty import Novelty, novelty_level

FLIPS = ((), (3,), (2,), (2, 3))  # of (B, C, H, W)
BATCH = 16
BACKBONE = "efficientnet_lite0"


class Remembered(nn.Module):
    """A backbone that knows its maps of all images, and gives those of the ``rows`` that it was told last.

    Args:
        images: (N, 3, H, W), normalised.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        backbone = build_backbone(BACKBONE, "default").eval()
        for name in ("embed_dim", "embed_dims", "strides", "patch_size"):
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))
        self.rows, self.flip = torch.zeros(0, dtype=torch.long), 0
        self.maps: list[dict[int, Tensor]] = []  # by flip and level, each (N, c, h, w) float16
        self.tokens: list[Tensor] = []  # by flip, (N, D)
        levels = range(len(self.embed_dims))
        with torch.inference_mode():
            for flip in FLIPS:
                pieces = [
                    backbone.get_intermediate_layers(piece.flip(flip), n=levels, reshape=True, return_class_token=True)
                    for piece in images.split(32)
                ]
                kept = {n: torch.cat([piece[n][0].half() for piece in pieces]) for n in levels if n or len(levels) < 5}
                self.maps.append(kept)
                self.tokens.append(torch.cat([piece[-1][1] for piece in pieces]))

    def get_intermediate_layers(self, x: Tensor, *, n: list[int], **_: object) -> list[tuple[Tensor, Tensor]]:
        """Maps and class token of ``rows``, mirrored as ``flip`` says."""
        token = self.tokens[self.flip][self.rows]
        return [(self.maps[self.flip][level][self.rows].float(), token) for level in n]


@dataclass(frozen=True)
class Answers:
    """What a model says of some images: (N, K) class probabilities, (N,) the mask's peak, and deviations from good
    images, if it knows them."""

    class_prob: np.ndarray
    peak: np.ndarray
    novelty: np.ndarray | None


class Images:
    """All images of a set, with their masks, as the heads see them."""

    def __init__(self, manifest: Manifest, size: int):
        self.labels = torch.from_numpy(manifest.labels.astype(np.int64))
        pixels = np.zeros((len(manifest), size, size, 3), np.uint8)
        masks = np.zeros((len(manifest), size, size), np.uint8)
        for n, (image, mask) in enumerate(zip(manifest.columns["image"], manifest.columns["mask"], strict=True)):
            pixels[n] = resize_image(read_for_size(manifest.root / image, size)[0], (size, size))
            if mask:
                known = np.ascontiguousarray(read_mask(manifest.root / mask))
                masks[n] = cv2.resize(known, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
        self.masks = torch.from_numpy(masks)
        backbone = build_backbone(BACKBONE, "default")
        images = as_tensor(pixels).permute(0, 3, 1, 2)
        self.pixels = Normalization(backbone.mean, backbone.std)(images)
        self.backbone = Remembered(self.pixels)

    def train(self, rows: np.ndarray, updates: int, seed: int, novel: np.ndarray | None = None) -> nn.Module:
        """Heads trained on ``rows``; with ``novel``, rows of good images, they know what good images look like."""
        torch.manual_seed(seed)
        model = AttentionGuidedDefectClassifier(self.backbone, self.backbone.embed_dim, 2, 1, 0.2, decoder="multiscale")
        model.freeze_backbone()
        criterion, rng = MultiTaskLoss(), np.random.default_rng(seed)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / 10, 0.5 + 0.5 * math.cos(math.pi * step / updates))
        )
        model.train()
        order = np.concatenate([rng.permutation(rows) for _ in range(-(-updates * BATCH // len(rows)))])
        for step in range(updates):
            some = torch.from_numpy(order[step * BATCH : (step + 1) * BATCH])
            self.backbone.rows, self.backbone.flip = some, int(rng.integers(len(FLIPS)))
            flip = FLIPS[self.backbone.flip]
            outputs = model(self.pixels[some].flip(flip))
            masks = self.masks[some][:, None].flip(flip)
            optimizer.zero_grad()
            criterion(outputs, self.labels[some], masks)["total_loss"].backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        if novel is not None:
            model.novelty = self._novelty(novel)
        return model

    def _novelty(self, rows: np.ndarray) -> Novelty:
        """From good images, of which a fifth say what is usual."""
        maps = novelty_level(list(self.backbone.maps[0].values()))
        held_out = rows[: max(len(rows) // 5, 4)]
        rest = np.setdiff1d(rows, held_out)
        return Novelty.fit([maps[torch.from_numpy(rest)].float()], [maps[torch.from_numpy(held_out)].float()])

    @torch.inference_mode()
    def answers(self, model: nn.Module, rows: np.ndarray) -> Answers:
        """What ``model`` says of ``rows``."""
        self.backbone.flip, found = 0, []
        for some in torch.from_numpy(rows).split(64):
            self.backbone.rows = some
            outputs = model(self.pixels[some])
            novelty = outputs["novelty"].amax((1, 2, 3)) if "novelty" in outputs else None
            peak = outputs["segmentation"].sigmoid().amax((1, 2, 3))
            found.append((outputs["classification"].softmax(1), peak, novelty))
        prob, peak, novelty = zip(*found, strict=True)
        deviations = None if novelty[0] is None else torch.cat(novelty).numpy()
        return Answers(torch.cat(prob).numpy(), torch.cat(peak).numpy(), deviations)

    @torch.inference_mode()
    def mask_threshold(self, model: nn.Module, rows: np.ndarray) -> float:
        """The mask probability from which on a pixel is defect, so that the IoU over all pixels of ``rows`` is best."""
        self.backbone.flip, limits = 0, torch.arange(1, 10) / 10
        counts = torch.zeros(3, len(limits))
        for some in torch.from_numpy(rows).split(64):
            self.backbone.rows = some
            marked = model(self.pixels[some])["segmentation"].sigmoid()[:, 0, ..., None] >= limits
            true = (self.masks[some] > 0)[..., None]
            counts += torch.stack(
                [(a & b).sum((0, 1, 2)) for a, b in ((marked, true), (marked, ~true), (~marked, true))]
            )
        return float(limits[(counts[0] / counts.sum(0)).argmax()])

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """(N, D) class tokens, of length 1."""
        tokens = self.backbone.tokens[0][torch.from_numpy(rows)].float()
        return nn.functional.normalize(tokens, dim=1).numpy()
