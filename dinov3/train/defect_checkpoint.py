"""Where :mod:`dinov3.models.defect_checkpoint` was before; its names can still be imported from here."""

from dinov3.models.defect_checkpoint import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
