"""Where an epoch stands: what going on inside it takes, beside weights and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dinov3.defect_distributed import World, gather_over_ranks
from dinov3.defect_errors import DefectError

COUNTS = ("images", "verdicts", "masks", "unreadable")


@dataclass
class EpochProgress:
    """This process's share of a training epoch so far.

    Attributes:
        batches: how many are done.
        totals: sums over images of each loss.
        counts: (4,) images that taught something, those with a verdict, those with a mask; files that were unreadable.
        skipped, spikes: updates left out because of their loss, and batches with an unusually high one.
        seconds: training time.
        rates: learning rates at the start of the epoch.
        random: states of torch's random generators to go on from; empty at the start of an epoch.
    """

    batches: int = 0
    totals: dict[str, Tensor] = field(default_factory=dict)
    counts: Tensor = field(default_factory=lambda: torch.zeros(len(COUNTS), dtype=torch.long))
    skipped: int = 0
    spikes: int = 0
    seconds: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)

    def add(self, batch: dict[str, Any]) -> None:
        """Count a batch that was learned from: its ``label``, ``has_mask`` and, by name, ``losses``."""
        labels = batch["label"]
        for name, value in batch["losses"].items():
            name = name if name in ("alpha", "beta") else f"train_{name}"
            self.totals[name] = self.totals.get(name, 0.0) + value * len(labels)
        self.counts[:3] += torch.tensor([len(labels), (labels >= 0).sum(), batch["has_mask"].sum()])

    def gather(self, device: torch.device) -> list[dict[str, Any]]:
        """What a checkpoint says about each process, by rank; to be called in all of them."""
        totals = {name: value.cpu() for name, value in self.totals.items()}
        return gather_over_ranks(vars(self) | {"totals": totals, "random": random_states(device)})

    @classmethod
    def restore(cls, states: list[dict[str, Any]], world: World, device: torch.device) -> EpochProgress:
        """This process's part of what :meth:`gather` returned.

        Raises:
            DefectError: the epoch was begun with another number of processes, which deals the images otherwise.
        """
        if len(states) != world.size:
            raise DefectError(
                f"the run was interrupted within an epoch by {len(states)} processes, and {world.size} are to go on; "
                f"start {len(states)} (the number may change between epochs only)"
            )
        progress = cls(**states[world.rank])
        progress.totals = {name: value.to(device) for name, value in progress.totals.items()}
        return progress

    def restore_random(self, device: torch.device) -> None:
        """Put torch's random generators where they were."""
        if "cpu" in self.random:
            torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random and device.type == "cuda":
            torch.cuda.set_rng_state(self.random["cuda"], device)
        if "mps" in self.random and device.type == "mps":
            torch.mps.set_rng_state(self.random["mps"])


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random generators that training on ``device`` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states
