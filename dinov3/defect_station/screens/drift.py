"""What the server's drift test says, for pages."""

from __future__ import annotations

from typing import Any

from dinov3.defect_serving.service import Service

NAMES = {"score": ("defect probability", "缺陷概率"), "novelty": ("novelty", "新颖度")}


def drift_state(service: Service) -> dict[str, Any] | None:
    """As ``GET /v1/drift`` has it; None: the server tests no drift."""
    monitor = getattr(service, "drift", None)
    return None if monitor is None else monitor.state()


def drift_alarm(service: Service) -> bool:
    """Whether what comes in is no longer like the reference."""
    state = drift_state(service)
    return state is not None and bool(state["alarm"])
