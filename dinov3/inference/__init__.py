"""From a trained model to results: predictions, output files, reports."""

from typing import Any

__all__ = ["DefectPredictor", "Prediction"]


def __getattr__(name: str) -> Any:
    """Import the predictor, and with it torch, when it is asked for."""
    if name in __all__:
        from dinov3.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
