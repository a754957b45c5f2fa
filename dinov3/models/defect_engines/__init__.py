"""What runs a model: torch for checkpoints, onnxruntime or OpenVINO for exported files; one interface, NumPy in and
out."""

from dinov3.models.defect_engines.base import ENGINES, Engine, EngineName, EngineOutput, Started
from dinov3.models.defect_engines.opening import open_engine

__all__ = ["ENGINES", "Engine", "EngineName", "EngineOutput", "Started", "open_engine"]
