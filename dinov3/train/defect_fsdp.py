"""Models too large for one device: each process keeps a share of every weight (FSDP2, torch's fully_shard)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinov3.defect_distributed import World
from dinov3.defect_errors import DefectError
from dinov3.models.defect_device import Precision
from dinov3.train.defect_config import TrainConfig

LARGE_BACKBONES = ("dinov3_vith16plus", "dinov3_vit7b16")  # what --fsdp auto shards


def is_to_shard(config: TrainConfig, world: World, precision: Precision) -> bool:
    """What ``--fsdp`` comes to in this world.

    Raises:
        DefectError: ``--fsdp on`` does not go with the other flags.
    """
    reasons = {
        "--fsdp shards a model over several processes, and there is one: start it with torchrun": world.size == 1,
        "--lora_rank has nothing to gain from --fsdp, as a frozen backbone has neither gradients nor moments": (
            config.lora_rank > 0
        ),
        "--compile does not go with --fsdp": config.compile,
        "--auto_batch does not go with --fsdp: give --batch_size": config.auto_batch,
        "--mixed_precision fp16 does not go with --fsdp: use bf16": precision.dtype is torch.float16,
    }
    obstacles = [reason for reason, holds in reasons.items() if holds]
    if config.fsdp == "on" and obstacles:
        raise DefectError(f"{'; '.join(obstacles)}. Or leave --fsdp on out")
    return config.fsdp == "on" or (config.fsdp == "auto" and config.backbone in LARGE_BACKBONES and not obstacles)


def shard(model: nn.Module, device: torch.device) -> None:
    """Spread the weights of ``model`` over all processes, in place and with their names; what is left of it moves to
    ``device``. Each transformer block is gathered for itself when it computes, so one at a time is held whole."""
    from torch.distributed.fsdp import fully_shard  # it takes a while, and few need it

    # The mask is a slice of a larger one, which nobody changes in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    mesh = dist.device_mesh.init_device_mesh(device.type, (dist.get_world_size(),))
    network = getattr(model.backbone, "network", model.backbone)
    for blocks in (module for module in network.children() if isinstance(module, (nn.ModuleList, nn.Sequential))):
        for block in blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to(device)


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is this process's view of one that is spread over all of them."""
    return hasattr(tensor, "full_tensor")


def gathered(value: Any, keep: bool) -> Any:
    """``value``, nested dicts and lists, with every sharded tensor whole and on the CPU; to be called in all
    processes. Those that don't ``keep`` it get None in place of such tensors, and hold one at a time."""
    if isinstance(value, Tensor) and is_sharded(value):
        sharded: Any = value
        whole = sharded.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: gathered(item, keep) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(gathered(item, keep) for item in value)
    return value


def spread_like(state: dict[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """An optimizer's ``state_dict`` whose moments are sharded as their ``parameters`` are; step counts are not."""
    if not any(map(is_sharded, parameters)):
        return state
    from torch.distributed.tensor import distribute_tensor

    def spread(value: Any, parameter: Any) -> Any:
        if not is_sharded(parameter) or getattr(value, "shape", None) != parameter.shape:
            return value
        mesh = parameter.device_mesh
        return distribute_tensor(value.to(parameter.device), mesh, parameter.placements)

    moments = {
        number: {name: spread(value, parameters[number]) for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return state | {"state": moments}


def clip_gradient(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale the gradient to the norm ``limit`` at most, sharded or not; the norm before, a scalar."""
    sharded = [parameter for parameter in parameters if is_sharded(parameter)]
    if not sharded:
        return nn.utils.clip_grad_norm_(parameters, limit)
    plain = [parameter for parameter in parameters if not is_sharded(parameter)]
    total: Any = nn.utils.get_total_norm([p.grad for p in sharded if p.grad is not None])
    parts = [total.full_tensor()]
    parts += [nn.utils.get_total_norm([p.grad for p in plain if p.grad is not None])] if plain else []
    norm = torch.linalg.vector_norm(torch.stack(parts))
    for kind in (sharded, plain):
        nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm


class InStep:
    """Evaluates a sharded ``model`` in all processes though their numbers of batches differ: as each call gathers
    weights from all, one that is done goes on with calls that nobody looks at until :meth:`finish` returns in all."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device, self.is_done = model, device, False
        model.register_forward_pre_hook(self._before_call, prepend=True)

    def _before_call(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not model.training and not self.is_done:
            self._any_left(1)

    def _any_left(self, left: int) -> bool:
        flag = torch.full((), left, device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def finish(self) -> None:
        """After this process's last batch."""
        self.is_done = True
        side = 2 * self.model.pad_multiple
        while self._any_left(0):
            self.model(torch.zeros(1, 3, side, side, device=self.device))
        self.is_done = False
