"""What keeps a run from wasting time: a limit on bad losses, and early stopping."""

from __future__ import annotations

import math
from typing import Any, Literal

from dinov3.defect_errors import DefectError

# What early stopping may watch; the losses are better when lower.
WatchedMetric = Literal[
    "image_accuracy",
    "image_f1",
    "image_ap",
    "image_auroc",
    "pixel_iou",
    "pixel_dice",
    "pixel_ap",
    "pixel_aupro",
    "mean_iou_defect",
    "val_total_loss",
    "val_cls_loss",
    "val_seg_loss",
]


class LossGuard:
    """Counts the updates skipped because a loss was not finite, and knows how high the loss usually is.

    Args:
        limit: how many updates of a run may be skipped; 0 ends at the first.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.skipped = 0
        self.seen, self.usual, self.spread = 0, 0.0, 0.0

    def skip(self, what: str) -> str:
        """Count one more skipped update, described by ``what``; the text to print.

        Raises:
            DefectError: it is one too many.
        """
        self.skipped += 1
        if self.skipped > self.limit:
            raise DefectError(
                f"{what}\nNo weight was changed by this batch; {self.limit} others were skipped before "
                "(--max_skipped_batches). Look at these files if it is always the same ones; else lower --lr, or use "
                "--mixed_precision off. Then continue with --resume"
            )
        return f"{what}\nskipped, no weight was changed ({self.skipped} of at most {self.limit})"

    def is_spike(self, loss: float) -> bool:
        """Whether ``loss`` lies far above those before it: six times their usual distance from their mean, and twice
        the mean, both over about the last 50 batches. Never among the first 20, which set the measure."""
        spike = self.seen >= 20 and loss > max(self.usual + 6 * self.spread, 2 * self.usual)
        share = max(1 / (self.seen + 1), 0.02)
        self.spread += share * (abs(loss - self.usual) * (self.seen > 0) - self.spread)
        self.usual += share * (loss - self.usual)
        self.seen += 1
        return spike

    def state_dict(self) -> dict[str, Any]:
        """All but the limit, which may change when a run goes on."""
        return {name: value for name, value in vars(self).items() if name != "limit"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        vars(self).update(state)


class EarlyStopping:
    """Ends a run when ``metric`` has not improved for ``patience`` epochs; never with a patience of 0, or while it is
    NaN from the start."""

    def __init__(self, metric: str, patience: int):
        self.metric, self.patience = metric, patience
        self.best, self.best_epoch = math.nan, 0

    def update(self, epochs_done: int, metrics: dict[str, Any]) -> None:
        """Take in the metrics of an epoch; NaN never is an improvement."""
        value = metrics[self.metric]
        is_better = value < self.best if self.metric.endswith("_loss") else value > self.best
        if is_better or (math.isnan(self.best) and not math.isnan(value)):
            self.best, self.best_epoch = value, epochs_done

    def is_over(self, epochs_done: int) -> bool:
        """Whether it is time to end."""
        return not math.isnan(self.best) and 0 < self.patience <= epochs_done - self.best_epoch

    def __str__(self) -> str:
        return f"{self.metric} has not improved since epoch {self.best_epoch} ({self.best:.4f})"

    def state_dict(self) -> dict[str, Any]:
        """What was reached when, of which metric."""
        return {"metric": self.metric, "best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`; of another metric only when it was last reached is of use."""
        self.best_epoch = state["best_epoch"]
        if state["metric"] == self.metric:
            self.best = state["best"]
