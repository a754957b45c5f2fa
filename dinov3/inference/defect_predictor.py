"""Where earlier versions had the predictor; new code imports it from ``dinov3.inference``."""

from dinov3.inference.predictor import DefectPredictor, Prediction

__all__ = ["DefectPredictor", "Prediction"]
