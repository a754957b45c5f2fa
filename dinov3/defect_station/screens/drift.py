"""What the server's drift test says, for pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinov3.defect_serving.service import Service

NAMES = {"score": ("defect probability", "缺陷概率"), "novelty": ("novelty", "新颖度")}


def drift_state(service: Service) -> dict[str, Any] | None:
    """As ``GET /v1/drift`` has it, with the reference's name alone; None: the server tests no drift."""
    if service.drift is None:
        return None
    state = service.drift.state()
    return state | {"reference": Path(state["reference"]).name, "in_use": service.tests_drift(service.models.current)}


def drift_alarm(service: Service) -> bool:
    """Whether what comes in is no longer like the reference; an alarm of a model that is not in use counts no more."""
    return service.drift is not None and service.drift.alarm and service.tests_drift(service.models.current)
