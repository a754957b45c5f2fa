"""Backbones, decoders, classifier, losses. Names of the official ``dinov3.models`` are found on demand."""

from pkgutil import extend_path

from dinov3._official import official_getattr

__path__ = extend_path(__path__, __name__)
__getattr__ = official_getattr(__name__)
