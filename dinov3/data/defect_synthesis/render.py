"""Synthetic photographs of factory parts, normal or defective, with exact masks.

For the demo data set and the tests. The steps are surface, defect, light, camera. Each has its own random
generator, so the same seed without the defect gives the same part in the same light.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dinov3.data.defect_synthesis.defects import DEFECT_PAINTERS
from dinov3.data.defect_synthesis.scene import REFERENCE_SIDE, Scene, blur, grid_xy, smoothstep
from dinov3.data.defect_synthesis.surfaces import SURFACE_PAINTERS, make_surface
from dinov3.defect_errors import DefectError

SURFACES: tuple[str, ...] = tuple(SURFACE_PAINTERS)
DEFECTS: tuple[str, ...] = tuple(DEFECT_PAINTERS)
MIN_SIDE = 64
_VISIBLE = 0.2  # of the full strength of the defect: from here on a pixel belongs to the mask
_GLOSS = 0.1  # shading that does not depend on the color: relief shows on dark material too


@dataclass(frozen=True)
class SyntheticImage:
    """`image` (H, W, 3) uint8 RGB; `mask` (H, W) uint8, 1 on the defect; `defect`: None if normal."""

    image: np.ndarray
    mask: np.ndarray
    surface: str
    defect: str | None


def synthesize(
    rng: np.random.Generator,
    *,
    size: int | tuple[int, int] = REFERENCE_SIDE,
    surface: str | None = None,
    defect: str | None = None,
) -> SyntheticImage:
    """Draw one picture of `size` pixels (one side, or height and width).

    Takes the same amount from `rng` whatever the arguments, so one state (and size) gives the same part
    with and without a defect. All lengths scale with the shorter side.

    Args:
        surface: one of `SURFACES`; drawn at random if None.
        defect: one of `DEFECTS`; None draws a normal part.

    Raises:
        DefectError: unknown surface or defect, or a side below `MIN_SIDE`.
    """
    shape = tuple(np.broadcast_to(size, 2).tolist())  # (H, W)
    if min(shape) < MIN_SIDE:
        raise DefectError(f"size: got {size}, but each side must be at least {MIN_SIDE} pixels.")
    for what, name, known in (("surface", surface, SURFACES), ("defect", defect, DEFECTS)):
        if name is not None and name not in known:
            raise DefectError(f"{what}: got {name!r}, expected one of {', '.join(known)}.")

    seeds = rng.integers(2**63, size=4)
    surface_rng, defect_rng, light_rng, camera_rng = (np.random.default_rng(seed) for seed in seeds)
    any_surface = SURFACES[rng.integers(len(SURFACES))]
    surface = surface or any_surface

    scene = make_surface(surface_rng, surface, shape)
    mask = np.zeros(shape, np.uint8)
    if defect is not None:
        mask[DEFECT_PAINTERS[defect](defect_rng, scene) > _VISIBLE] = 1
    image = _photograph(camera_rng, _light(light_rng, scene), scene.scale)
    return SyntheticImage(image, mask, surface, defect)


def _light(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Radiance (H, W, 3): shaded relief under a lamp with falloff, a highlight and at times a shadow."""
    shape = scene.shape
    x, y = grid_xy(shape)
    x, y = x / shape[1] - 0.5, y / shape[0] - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    toward = np.cos(angle), np.sin(angle)
    slope = toward[0] * cv2.Sobel(scene.relief, -1, 1, 0, scale=1 / 8)
    slope += toward[1] * cv2.Sobel(scene.relief, -1, 0, 1, scale=1 / 8)
    slope = np.clip(slope, -0.7, 0.8)[..., None]
    lamp = 1 - rng.uniform(0.05, 0.35) * (toward[0] * x + toward[1] * y)
    lamp -= rng.uniform(0.1, 0.6) * (x**2 + y**2)
    spot = rng.uniform(-0.5, 0.5, 2)
    lamp += rng.uniform(0, 0.3) * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / rng.uniform(0.01, 0.1))
    edge = rng.uniform(0, 2 * np.pi)
    side = x * np.cos(edge) + y * np.sin(edge) - rng.uniform(0.0, 0.4)
    depth = rng.uniform(0.15, 0.4) * (rng.random() < 0.35)
    lamp *= 1 - depth * smoothstep(0, rng.uniform(0.01, 0.15), side)
    return (scene.albedo * (1 + slope) + _GLOSS * slope) * lamp[..., None]


def _photograph(rng: np.random.Generator, radiance: np.ndarray, scale: float) -> np.ndarray:
    """uint8 picture: exposure, white balance, lens blur and sensor noise."""
    exposed = blur(radiance, rng.uniform(0.35, 0.7) * scale)
    exposed *= (rng.uniform(0.9, 1.25) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
    noisy = exposed + rng.uniform(0.006, 0.018) * rng.standard_normal(exposed.shape, dtype=np.float32)
    return (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)
