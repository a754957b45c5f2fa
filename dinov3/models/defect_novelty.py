"""How unlike any good part an image is, to find defects of kinds that were never in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Novelty(nn.Module):
    """Adds to the defect logits how far a place's features are from those of good images.

    The distance is Mahalanobis', under one Gaussian over all places of all good training images (Lee et al. 2018,
    arXiv 1807.03888; for images of parts, Rippel et al. 2021, arXiv 2005.14140); features are averaged over 3 x 3
    places first, as in PatchCore (Roth et al. 2022, arXiv 2106.08265). The farthest place of an image counts: each
    standard deviation of other good images' farthest places, beyond the first one over their mean, adds one to the
    log-odds of a defect. Being much like good parts takes nothing off, as known defects may be small.

    Args:
        channels: C, of the feature map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels))
        self.register_buffer("usual", torch.tensor([0.0, 1.0]))  # mean and deviation of good images' farthest places

    @classmethod
    @torch.no_grad()
    def fit(cls, train: Iterable[Tensor], held_out: Iterable[Tensor]) -> Novelty:
        """From maps (B, C, h, w) of good images: those of training give the Gaussian, others what is usual.

        A thousandth of the mean variance is added to each, so that channels that hardly vary don't decide.
        """
        count, total, products = 0, 0.0, 0.0
        for maps in train:
            places = _places(maps).flatten(0, 2).cpu().double()
            count += len(places)
            total, products = total + places.sum(0), products + places.T @ places
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        covariance.diagonal().add_(1e-3 * covariance.diagonal().mean() + 1e-12)
        novelty = cls(len(mean))
        novelty.mean.copy_(mean)
        novelty.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)).T)
        farthest = torch.cat([novelty.distances(maps.cpu()).amax((1, 2)) for maps in held_out])
        mean = farthest.mean()
        novelty.usual.copy_(torch.stack([mean, torch.maximum(farthest.std(correction=0), 0.01 * mean + 1e-6)]))
        return novelty

    def distances(self, maps: Tensor) -> Tensor:
        """(B, h, w) distance of each place in maps (B, C, h, w), as root of its mean square over the channels."""
        # Differences of large numbers need float32; there is no autocast on MPS to turn off.
        exact = (
            contextlib.nullcontext() if maps.device.type == "mps" else torch.autocast(maps.device.type, enabled=False)
        )
        with exact:
            return ((_places(maps) - self.mean) @ self.whitening).square().mean(-1).sqrt()

    def forward(self, logits: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, K), those of the defects raised by what maps (B, C, h, w) show, all alike; and how far each
        place is (B, 1, h, w), in deviations beyond the mean of good images' farthest places."""
        mean, deviation = self.usual
        beyond = ((self.distances(maps) - mean) / deviation)[:, None]
        raised = F.relu(beyond.amax((1, 2, 3)) - 1)
        return torch.cat([logits[:, :1], logits[:, 1:] + raised[:, None]], dim=1), beyond


def novelty_level(maps: list[Tensor]) -> Tensor:
    """The map (B, C, h, w) to judge by: the backbone's last but one, which knows surfaces, or its only one."""
    return maps[-2:][0]


def _places(maps: Tensor) -> Tensor:
    """(B, h, w, C) float32, from (B, C, h, w)."""
    return F.avg_pool2d(maps.float(), 3, stride=1, padding=1).permute(0, 2, 3, 1)
