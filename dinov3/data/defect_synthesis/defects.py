"""Procedural defects: each changes the color and the relief of a scene and says where."""

from collections.abc import Callable

import numpy as np

from dinov3.data.defect_synthesis.scene import Scene, blur, grid_xy, noise, smoothstep, strokes


def _spot(rng: np.random.Generator, scene: Scene, low: float = 0.12, high: float = 0.88) -> np.ndarray:
    """A point (x, y) of the part that is not in a hole."""
    height, width = scene.shape
    points = rng.uniform(low, high, (12, 2)) * (width, height)
    blocked = blur(scene.void, 4 * scene.scale)[points[:, 1].astype(int), points[:, 0].astype(int)]
    return points[np.argmin(blocked)]


def _mean(scene: Scene, alpha: np.ndarray) -> float:
    """Mean brightness under `alpha`."""
    return float((scene.albedo.mean(-1) * alpha).sum() / max(alpha.sum(), 1e-6))


def _darkens(rng: np.random.Generator, mean: float) -> bool:
    """Whether to darken a place of this brightness: mostly where it is bright, or nobody would see it."""
    return rng.random() < np.clip((mean - 0.2) / 0.4, 0.05, 0.95)


def _tint(scene: Scene, alpha: np.ndarray, factor: np.ndarray | float) -> None:
    """Multiply the color by `factor` where `alpha` is 1."""
    scene.albedo *= 1 + alpha[..., None] * (np.asarray(factor, np.float32) - 1)
    np.clip(scene.albedo, 0, 1, out=scene.albedo)


def _distance(rng: np.random.Generator, scene: Scene, center: np.ndarray, radius: float, rough: float) -> np.ndarray:
    """Distance (H, W) from `center` over `radius`, along a turned ellipse with a ragged outline."""
    x, y = grid_xy(scene.shape)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    dx, dy = x - center[0], y - center[1]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    ragged = noise(rng, scene.shape, 0.6 * radius) + 0.3 * noise(rng, scene.shape, 0.2 * radius)
    return np.hypot(along / stretch, across * stretch) / radius + rough * ragged


def _polyline(points: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Rows for `strokes` that join `points` (N, 2)."""
    return np.concatenate([points[:-1], points[1:], widths[:-1, None]], 1)


def scratch(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """One to three thin curves that cross the grain (which runs near the horizontal), bright or dark."""
    s = scene.scale
    angle = np.radians(rng.uniform(25, 155))
    reach = rng.uniform(0.12, 0.4) * min(scene.shape)
    center = _spot(rng, scene, 0.2, 0.8)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    t = np.linspace(-1, 1, 40)[:, None]
    bend = rng.uniform(-0.25, 0.25) * t**2 + rng.uniform(-0.1, 0.1) * t**3
    curve = reach * (along * t + across * bend)
    taper = np.sqrt(np.clip(1 - np.abs(t[:, 0]) ** 3, 0.08, 1))
    rows = []
    for k in range(rng.choice([1, 1, 2, 3])):
        width = rng.uniform(1.3, 2.6) * s * taper
        beside = center + across * k * rng.uniform(3, 7) * s
        rows.append(_polyline(beside + curve * rng.uniform(0.7, 1), width))
    alpha = np.minimum(1, 1.3 * blur(strokes(scene.shape, np.concatenate(rows)), 0.5 * s)) * scene.solid
    mean = _mean(scene, alpha)
    bare = rng.uniform(0.22, 0.35) / max(mean, 0.1)  # the same step in gray on any material
    _tint(scene, alpha, rng.uniform(0.35, 0.6) if _darkens(rng, mean) else 1 + bare)
    scene.relief -= 0.5 * s * alpha
    return alpha


def pit(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """One to five small dark hollows with a raised rim."""
    s = scene.scale
    x, y = grid_xy(scene.shape)
    center = _spot(rng, scene)
    alpha = np.zeros(scene.shape, np.float32)
    for _ in range(rng.choice([1, 1, 2, 3, 5])):
        radius = max(rng.uniform(2.6, 6) * s, 1.3)
        distance = np.hypot(x - center[0], (y - center[1]) * rng.uniform(0.8, 1.25)) / radius
        hollow = smoothstep(1.15, 0.6, distance)
        _tint(scene, hollow, rng.uniform(0.2, 0.4))
        scene.relief += radius * (0.22 * np.exp(-(((distance - 1.1) / 0.3) ** 2)) - 0.5 * hollow)
        alpha = np.maximum(alpha, smoothstep(1.75, 1.1, distance))
        center = center + rng.normal(0, 22 * s, 2)
    return alpha * scene.solid


def crack(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """A jagged dark line that branches, one to three pixels wide at the reference size."""
    s = scene.scale
    rows: list[np.ndarray] = []

    def grow(start: np.ndarray, heading: float, steps: int, width: float) -> None:
        headings = heading + np.cumsum(rng.normal(0, 0.28, steps)) + rng.normal(0, 0.45, steps)
        moves = np.stack([np.cos(headings), np.sin(headings)], 1) * rng.uniform(2.5, 6, (steps, 1)) * s
        points = np.concatenate([start[None], start + np.cumsum(moves, 0)])
        rows.append(_polyline(points, np.linspace(width, 0.45 * width, steps + 1)))
        for at in np.flatnonzero(rng.random(steps) < 0.07):
            if steps > 8 and len(rows) < 8:
                turn = rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
                grow(points[at], headings[at] + turn, steps // 2, 0.7 * width)

    start, heading = _spot(rng, scene, 0.25, 0.75), rng.uniform(0, 2 * np.pi)
    grow(start, heading, int(rng.integers(16, 36)), rng.uniform(1.8, 3) * s)
    alpha = np.minimum(1, 1.3 * blur(strokes(scene.shape, np.concatenate(rows)), 0.4 * s)) * scene.solid
    _tint(scene, alpha, rng.uniform(0.15, 0.35))
    scene.relief -= 0.6 * s * alpha
    return alpha


def stain(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """A translucent blot of oil, rust, dye or bleach, through which the texture shows."""
    s = scene.scale
    distance = _distance(rng, scene, _spot(rng, scene), rng.uniform(14, 45) * s, rng.uniform(0.08, 0.2))
    alpha = smoothstep(1.16, 0.8, distance) * scene.solid
    if _darkens(rng, _mean(scene, alpha)):
        liquids = [(0.62, 0.52, 0.38), (0.78, 0.56, 0.40), (0.48, 0.50, 0.54), (0.55, 0.62, 0.78)]
        factor = np.array(liquids[rng.integers(len(liquids))]) * rng.uniform(0.85, 1.1)
    else:
        factor = 1 + np.array([1.0, 0.95, 0.85]) * rng.uniform(0.5, 0.9)
    ring = 1 + rng.uniform(0, 0.35) * np.exp(-(((distance - 0.88) / 0.1) ** 2))  # a dried edge
    _tint(scene, alpha * ring * (0.9 + 0.1 * noise(rng, scene.shape, 12 * s)), factor)
    return alpha


def dent(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """A smooth hollow or bump, seen by its shading alone."""
    radius = rng.uniform(16, 44) * scene.scale
    alpha = np.clip(1 - _distance(rng, scene, _spot(rng, scene), radius, 0.03) ** 2, 0, 1)
    # The slope of (1 - r^2)^3 peaks at 1.72 / radius.
    scene.relief -= rng.choice([1, 1, -1]) * rng.uniform(0.4, 0.65) * radius / 1.72 * alpha**3
    return alpha**1.5 * scene.solid  # about as visible as the slope


def missing(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Material broken off at the border or within: the substrate shows, lower and rough."""
    s = scene.scale
    center = _spot(rng, scene)
    if rng.random() < 0.5:
        side = rng.integers(2)
        center[side] = rng.choice([0.0, 1.0]) * scene.shape[1 - side]
    distance = _distance(rng, scene, center, rng.uniform(14, 40) * s, rng.uniform(0.08, 0.16))
    alpha = smoothstep(1.0 + 0.04, 1.0 - 0.04, distance) * scene.solid
    rough = noise(rng, scene.shape, 3 * s) + noise(rng, scene.shape, 8 * s)
    floor = blur(scene.relief, 8 * s) + 0.2 * s * rough
    scene.paint(alpha, scene.substrate * (1 + 0.05 * rough[..., None]))
    scene.relief += alpha * (floor - scene.relief) - 2.5 * s * smoothstep(1.0, 0.8, distance)
    return alpha


DEFECT_PAINTERS: dict[str, Callable[[np.random.Generator, Scene], np.ndarray]] = {
    "scratch": scratch,
    "pit": pit,
    "crack": crack,
    "stain": stain,
    "dent": dent,
    "missing": missing,
}
