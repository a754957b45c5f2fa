"""Predictions from a checkpoint, their files, pictures and reports, and ONNX export."""
