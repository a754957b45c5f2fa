"""How good a model is: metrics, thresholds, calibration, figures."""
