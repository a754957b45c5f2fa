"""What synthetic images are drawn on and with: a part before it is lit, noise and strokes."""

from dataclasses import dataclass

import cv2
import numpy as np

Shape = tuple[int, int]
REFERENCE_SIDE = 320  # lengths are given for an image with this shorter side, in pixels
_SUPERSAMPLE = 4


@dataclass
class Scene:
    """A part before it is lit.

    albedo: (H, W, 3) float32, RGB, 0..1.
    relief: (H, W) float32, height in pixels, so a slope of 0.3 changes the brightness by about 30 %.
    void: (H, W) float32, 1 where there is no material by design (holes): no defect can be there.
    substrate: RGB of what lies under the surface.
    scale: pixels per reference pixel.
    """

    albedo: np.ndarray
    relief: np.ndarray
    void: np.ndarray
    substrate: np.ndarray
    scale: float

    @property
    def shape(self) -> Shape:
        return self.relief.shape

    @property
    def solid(self) -> np.ndarray:
        """(H, W), 1 where there is material."""
        return 1 - self.void

    def paint(self, alpha: np.ndarray, color: np.ndarray | float) -> None:
        """Cover the surface with `color` (RGB or one gray) where `alpha` (H, W) is 1."""
        self.albedo += alpha[..., None] * (np.asarray(color, np.float32) - self.albedo)


def noise(rng: np.random.Generator, shape: Shape, cell: float | tuple[float, float]) -> np.ndarray:
    """Smooth noise (H, W), mean near 0, standard deviation 1; `cell` is the grain size or (height, width)."""
    cells = np.maximum(np.broadcast_to(cell, 2), 1.0)
    rows, cols = (np.ceil(np.array(shape) / cells) + 2).astype(int)
    grid = rng.standard_normal((rows, cols), dtype=np.float32)
    size = max(round(cols * cells[1]), shape[1]), max(round(rows * cells[0]), shape[0])
    smooth = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]
    return smooth / max(float(smooth.std()), 1e-6)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; with low > high it falls instead."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def grid_xy(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x (1, W) and y (H, 1), float32."""
    return np.arange(shape[1], dtype=np.float32)[None], np.arange(shape[0], dtype=np.float32)[:, None]


def strokes(shape: Shape, segments: np.ndarray) -> np.ndarray:
    """Coverage (H, W), 0..1, of straight segments given as rows x0, y0, x1, y1, width."""
    canvas = np.zeros((shape[0] * _SUPERSAMPLE, shape[1] * _SUPERSAMPLE), np.uint8)
    for x0, y0, x1, y1, width in np.rint(np.asarray(segments) * _SUPERSAMPLE).astype(int).tolist():
        cv2.line(canvas, (x0, y0), (x1, y1), 255, max(width, 1))
    return cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(field, (0, 0), max(sigma, 0.3))
