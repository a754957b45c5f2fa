"""Runs whose pages nobody looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def draw_nothing(setattr: Callable[[Any, str, Any], None]) -> None:
    """Figures stay blank, and a training writes no page: they would take most of the time of a run of few images.

    Args:
        setattr: as the builtin.
    """
    from matplotlib.figure import Figure

    from dinov3.inference.reports import training

    setattr(Figure, "draw", lambda figure, renderer: None)
    setattr(training, "write_training_report", lambda *arguments: None)
