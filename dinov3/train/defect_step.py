"""Model and loss as one module, in one process or several."""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dinov3.defect_distributed import World, batch_total
from dinov3.models.defect_backbone import list_backbones
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.train.defect_fsdp import is_sharded
from dinov3.train.defect_sync_batch_norm import synchronize_batch_norm


class TrainStep(nn.Module):
    """Model and loss as one module, so that DistributedDataParallel averages the gradients of both.

    The loss is that of the batches of all processes; ``alone``, of this one's, without waiting for the others.
    """

    def __init__(self, model: AttentionGuidedDefectClassifier, criterion: MultiTaskLoss, alone: bool = False):
        super().__init__()
        self.model, self.criterion = model, criterion
        self.options = {} if alone else {"batch_total": batch_total}

    def forward(self, images: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor) -> dict[str, Tensor]:
        return self.criterion(self.model(images), labels, masks, has_mask, **self.options)


def average_gradients(step: nn.Module, wanted: bool) -> None:
    """Whether the next pass through ``step``, forward and backward, averages the gradients over all processes, as only
    the last batch of an update has to; the others add to this process's own. This is what ``no_sync`` of
    DistributedDataParallel sets; in one process, and for a sharded model, it changes nothing."""
    step.require_backward_grad_sync = wanted


def across_processes(step: TrainStep, world: World, device: torch.device) -> nn.Module:
    """``step``, for several processes so that all learn from the whole batch, norm statistics included; one whose model
    is sharded already averages its gradients itself, and the loss's own gradient is the same in all processes."""
    if world.size == 1 or any(map(is_sharded, step.model.parameters())):
        return step
    synced = with_sync_batch_norm(step, device)
    devices = [device.index] if device.type == "cuda" else None
    # Another network may have a head, or a mask token, that feature maps go without; looking for it takes some time.
    is_known = getattr(step.model.backbone, "name", "") in list_backbones()
    return DistributedDataParallel(synced, devices, find_unused_parameters=not is_known)


def with_sync_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` with the statistics of norms taken over the batches of all processes."""
    return convert_sync_batchnorm(module) if device.type == "cuda" else synchronize_batch_norm(module)
