"""Where earlier versions had the reader of windows."""

from dinov3.data.defect_partial_read import WindowReader as ImageParts

__all__ = ["ImageParts"]
