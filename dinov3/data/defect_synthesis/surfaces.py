"""Procedural factory surfaces: what a good part looks like, with everything on it that is not a defect.

A surface is color plus relief; light comes later, so that a dent or a scratch is lit like all the rest. Every
surface carries harmless features of its own kind (holes, print, knots, seams, folds).
"""

from collections.abc import Callable

import cv2
import numpy as np

from dinov3.data.defect_synthesis.scene import (
    REFERENCE_SIDE,
    Scene,
    Shape,
    blur,
    grid_xy,
    noise,
    smoothstep,
    strokes,
)

# Harmless features


def _somewhere(rng: np.random.Generator, shape: Shape, low: float = 0.15, high: float = 0.85) -> np.ndarray:
    return rng.uniform(low, high, 2) * (shape[1], shape[0])


def _holes(rng: np.random.Generator, scene: Scene, count: int) -> None:
    """Drilled and countersunk holes."""
    x, y = grid_xy(scene.shape)
    for _ in range(count):
        cx, cy = _somewhere(rng, scene.shape)
        radius = rng.uniform(6.5, 12) * scene.scale
        distance = np.hypot(x - cx, y - cy)
        sink = rng.uniform(1.3, 1.9) * radius
        scene.relief += 0.35 * np.clip(distance - sink, radius - sink, 0)
        hole = smoothstep(radius + 0.7, radius - 0.7, distance)
        scene.paint(hole, rng.uniform(0.02, 0.08))
        np.maximum(scene.void, smoothstep(sink + 1, sink, distance), out=scene.void)


def _text(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Coverage (H, W) of a serial number."""
    letters = "".join(rng.choice(list("ABCDEFHKLMNPRSTXZ"), 2))
    words = f"{letters}{rng.integers(10, 99)}-{rng.integers(100, 999)}"
    height, width = (n * 2 for n in scene.shape)
    size = rng.uniform(0.7, 1.4) * 2 * scene.scale
    thickness = max(1, round(rng.uniform(1.6, 2.6) * 2 * scene.scale))
    (long, tall), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
    x = rng.uniform(0.12 * width, 0.88 * width - long)
    y = rng.uniform(0.15 * height + tall, 0.85 * height)
    canvas = np.zeros((height, width), np.uint8)
    cv2.putText(canvas, words, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, size, 255, thickness, cv2.LINE_AA)
    return cv2.resize(canvas, scene.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _print(rng: np.random.Generator, scene: Scene) -> None:
    """Printed serial number, black or white, sometimes on a label."""
    text = _text(rng, scene)
    dark = rng.random() < 0.5
    if rng.random() < 0.35:
        x, y, w, h = cv2.boundingRect((text > 0.1).astype(np.uint8))
        pad = round(7 * scene.scale)
        label = np.zeros(scene.shape, np.float32)
        label[max(y - pad, 0) : y + h + pad, max(x - pad, 0) : x + w + pad] = 1
        scene.paint(label, 0.85 if dark else 0.12)
    scene.paint(text * rng.uniform(0.75, 0.95), 0.06 if dark else 0.92)


def _emboss(rng: np.random.Generator, scene: Scene) -> None:
    """Raised or sunken serial number: shading only."""
    height = rng.choice([-1.0, 1.0]) * rng.uniform(0.8, 1.4)
    scene.relief += height * blur(_text(rng, scene), 0.9 * scene.scale)


def _stitching(rng: np.random.Generator, scene: Scene, gray: float) -> None:
    """A straight seam: a shallow valley with a row of stitches."""
    height, width = scene.shape
    y0, y1 = rng.uniform(0.1, 0.9) * height + rng.uniform(-0.1, 0.1, 2) * height
    s = scene.scale
    starts = np.arange(0, width, 11 * s)
    ends = starts + 7 * s
    slope = (y1 - y0) / width
    rows = np.stack([starts, y0 + slope * starts, ends, y0 + slope * ends, np.full_like(starts, 2.4 * s)], 1)
    thread = strokes(scene.shape, rows)
    valley = strokes(scene.shape, np.array([[0, y0, width, y1, 5 * s]]))
    scene.relief += 1.2 * s * blur(thread, 0.8 * s) - 1.5 * s * blur(valley, 2 * s)
    scene.paint(0.9 * thread, gray)


# Surfaces


def _scene(shape: Shape, scale: float, color: np.ndarray, tone: np.ndarray, substrate: np.ndarray) -> Scene:
    """A scene whose color is `color` (RGB) times 1 + `tone` (H, W)."""
    albedo = np.asarray(color, np.float32) * (1 + tone[..., None])
    blank = np.zeros(shape, np.float32)
    return Scene(albedo.astype(np.float32), blank, blank.copy(), np.asarray(substrate, np.float32), scale)


def _color(rng: np.random.Generator, choices: str) -> np.ndarray:
    """One of the hexadecimal RGB `choices`, up to 12 % lighter or darker."""
    chosen = rng.choice(choices.split())
    return np.frombuffer(bytes.fromhex(chosen), np.uint8) / 255 * rng.uniform(0.88, 1.12)


def brushed_metal(rng: np.random.Generator, shape: Shape, s: float) -> Scene:
    """Sheet metal with brush lines, machining marks, screw holes and engraved or printed numbers."""
    color = _color(rng, "9499a1 808285 a89980 6b707a")
    streaks = 0.045 * noise(rng, shape, (1, 50 * s)) + 0.04 * noise(rng, shape, (1.6 * s, 140 * s))
    tone = streaks + 0.02 * noise(rng, shape, (1, 8 * s)) + 0.05 * noise(rng, shape, (60 * s, 400 * s))
    scene = _scene(shape, s, color, tone, _color(rng, "5c3826 333336"))
    height, width = shape
    count = rng.integers(2, 9)
    x, y = rng.uniform(-0.2, 1, count) * width, rng.uniform(0, 1, count) * height
    length, thick = rng.uniform(0.2, 1.2, count) * width, rng.uniform(0.6, 1.6, count) * s
    marks = strokes(shape, np.stack([x, y, x + length, y, thick], 1))
    scene.paint(0.6 * marks, np.clip(color * rng.choice([0.55, 1.5]), 0, 1))
    if rng.random() < 0.5:
        (_print if rng.random() < 0.6 else _emboss)(rng, scene)
    _holes(rng, scene, rng.choice([0, 0, 1, 2]))
    return scene


def cast(rng: np.random.Generator, shape: Shape, s: float) -> Scene:
    """Sand-cast iron: grainy, with raised numbers, a parting line, drilled holes and machined patches."""
    color = _color(rng, "575759 4c4745 6b6b6e")
    grain = noise(rng, shape, 2.2 * s)
    tone = 0.05 * grain + 0.05 * noise(rng, shape, 14 * s)
    scene = _scene(shape, s, color, tone, _color(rng, "9e9c99"))
    scene.relief += 0.16 * s * (grain + 1.5 * noise(rng, shape, 5 * s) + 2.0 * noise(rng, shape, 12 * s))
    height, width = shape
    if rng.random() < 0.35:  # parting line
        y0, y1 = rng.uniform(0.1, 0.9) * height + rng.uniform(-0.05, 0.05, 2) * height
        scene.relief += 1.8 * s * blur(strokes(shape, np.array([[0, y0, width, y1, 4 * s]])), 1.2 * s)
    if rng.random() < 0.3:  # machined edge
        below = grid_xy(shape)[1] - rng.uniform(0.75, 0.92) * height
        face = np.repeat(smoothstep(-1, 1, below), width, 1)
        scene.relief *= 1 - 0.9 * face
        scene.paint(face, (0.62 + 0.03 * noise(rng, shape, (1, 40 * s)))[..., None])
    if rng.random() < 0.5:
        _emboss(rng, scene)
    if rng.random() < 0.3:
        _print(rng, scene)
    _holes(rng, scene, rng.choice([0, 0, 1, 2]))
    return scene


def fabric(rng: np.random.Generator, shape: Shape, s: float) -> Scene:
    """Woven cloth, plain or twill, with thick yarns, stripes, folds, seams and stamped numbers."""
    color = _color(rng, "40547a ad9e80 7a7a78 666b4c 8c4240")
    x, y = grid_xy(shape)
    pitch = rng.uniform(4.5, 6.0) * max(s, 0.5)
    u = (x + 1.5 * s * noise(rng, shape, 60 * s)) / pitch
    v = (y + 1.5 * s * noise(rng, shape, 60 * s)) / pitch
    column, row = np.floor(u).astype(int), np.floor(v).astype(int)
    over = (column + row) % 2 == 0 if rng.random() < 0.5 else (column + row) % 4 < 2
    yarn_x, yarn_y = rng.normal(0, 0.07, (2, 1024))
    across = np.where(over, u - column, v - row) - 0.5
    tone = np.where(over, yarn_x[column % 1024], yarn_y[row % 1024]) - 1.1 * across**2
    tone += 0.06 * noise(rng, shape, 1.5 * s) - 0.10 * ~over
    count = rng.integers(2, 9)  # slubs: stretches of thicker yarn
    x0, length = rng.uniform(-0.2, 1, count) * shape[1], rng.uniform(0.08, 0.5, count) * shape[1]
    y0 = (rng.integers(0, max(int(shape[0] / pitch), 1), count) + 0.5) * pitch
    slubs = strokes(shape, np.stack([x0, y0, x0 + length, y0, np.full(count, 0.8 * pitch)], 1))
    tone += 0.18 * slubs * rng.choice([-1, 1])
    if rng.random() < 0.3:  # woven stripes
        tone += 0.25 * rng.choice([-1, 1]) * smoothstep(0.4, 0.5, np.sin(column * rng.uniform(0.15, 0.4)))
    scene = _scene(shape, s, color, tone, _color(rng, "1a1a1c c7c4bd"))
    scene.relief += rng.uniform(1, 5) * s * noise(rng, shape, (70 * s, 160 * s))
    if rng.random() < 0.4:
        _stitching(rng, scene, rng.choice([0.12, 0.85]))
    if rng.random() < 0.4:
        _print(rng, scene)
    return scene


def leather(rng: np.random.Generator, shape: Shape, s: float) -> Scene:
    """Pebbled leather with wrinkles, seams, embossed numbers and punched holes."""
    color = _color(rng, "5c3824 2e2b2b 8c613d 592121 998c7a")
    cell = rng.uniform(5, 8) * max(s, 0.5)
    rows, cols = (np.array(shape) / cell).astype(int) + 1
    seeds = (np.stack(np.mgrid[:rows, :cols], -1) + rng.uniform(0, 1, (rows, cols, 2))) * cell
    seeds = np.minimum(seeds.reshape(-1, 2).astype(int), np.array(shape) - 1)
    apart = np.full(shape, 255, np.uint8)
    apart[seeds[:, 0], seeds[:, 1]] = 0
    pebbles = blur(cv2.distanceTransform(apart, cv2.DIST_L2, 3), 0.7 * s) / cell
    tone = 0.2 - 0.55 * pebbles**2 + 0.05 * noise(rng, shape, 40 * s)
    scene = _scene(shape, s, color, tone, color * 0.5 + 0.35)
    scene.relief -= 0.35 * cell * pebbles
    for _ in range(rng.integers(0, 4)):  # wrinkles
        wave = noise(rng, shape, (40 * s, 90 * s))
        band = np.exp(-((wave / 0.12) ** 2)) * smoothstep(0.3, 1.0, noise(rng, shape, 70 * s))
        scene.relief -= 1.2 * s * blur(band.astype(np.float32), 1.5 * s)
    scene.relief += rng.uniform(0.5, 3) * s * noise(rng, shape, 110 * s)
    if rng.random() < 0.45:
        _stitching(rng, scene, rng.choice([0.1, 0.8]))
    if rng.random() < 0.35:
        _emboss(rng, scene)
    _holes(rng, scene, rng.choice([0, 0, 1, 2]))
    return scene


def plastic(rng: np.random.Generator, shape: Shape, s: float) -> Scene:
    """Molded plastic with a fine grain, ribs, ejector marks, screw holes and print."""
    color = _color(rng, "bfbfb8 262629 335c8c b8801f 477354 992e26")
    substrate = np.clip(color * rng.uniform(0.45, 0.65) + 0.03, 0, 1) if color.mean() > 0.3 else color + 0.35
    scene = _scene(shape, s, color, 0.03 * noise(rng, shape, 3 * s), substrate)
    scene.relief += 0.09 * s * (noise(rng, shape, 2 * s) + noise(rng, shape, 4.5 * s))
    x, y = grid_xy(shape)
    if rng.random() < 0.4:  # rib
        at = rng.uniform(0.1, 0.9) * shape[0]
        scene.relief += 2.6 * s * smoothstep(6 * s, 0, np.abs(y - at)) * np.ones(shape, np.float32)
    for _ in range(rng.integers(0, 3)):  # ejector marks
        cx, cy = _somewhere(rng, shape)
        ring = np.abs(np.hypot(x - cx, y - cy) - rng.uniform(10, 20) * s)
        scene.relief -= 0.8 * s * smoothstep(2.2 * s, 0, ring)
    if rng.random() < 0.6:
        _print(rng, scene)
    _holes(rng, scene, rng.choice([0, 0, 1, 2]))
    return scene


def wood(rng: np.random.Generator, shape: Shape, s: float) -> Scene:
    """Planed wood with growth rings, pores, knots, joints between boards, screw holes and print."""
    light = _color(rng, "c79966 9e6b42 b29e80 6b452e")
    x, y = grid_xy(shape)
    rings = y / (rng.uniform(9, 16) * s) + rng.uniform(0.6, 1.4) * noise(rng, shape, (60 * s, 260 * s))
    rings = rings + 0.08 * noise(rng, shape, (4 * s, 60 * s))
    dark = np.zeros(shape, np.float32)
    for _ in range(rng.choice([0, 0, 1, 1, 2])):  # knots bend the grain around them
        cx, cy = _somewhere(rng, shape)
        radius = rng.uniform(7, 16) * s
        distance = np.hypot((x - cx) / 1.4, y - cy) / radius
        rings += rng.uniform(2.5, 4) * np.exp(-((distance / 2.2) ** 2))
        dark += rng.uniform(0.45, 0.65) * smoothstep(1.25, 0.7, distance + 0.08 * noise(rng, shape, 6 * s))
    phase = rings - np.floor(rings)
    late = smoothstep(0.25, 0.9, phase) * smoothstep(1.0, 0.93, phase)
    pores = smoothstep(1.5, 2.4, noise(rng, shape, (1.2 * s, 11 * s)))
    tone = -rng.uniform(0.18, 0.30) * late - 0.28 * pores - dark + 0.03 * noise(rng, shape, (1.2 * s, 30 * s))
    tone += 0.06 * noise(rng, shape, (50 * s, 200 * s))
    scene = _scene(shape, s, light, tone, np.clip(light * rng.choice([0.5, 1.35]), 0, 0.95))
    scene.albedo[..., 2] -= 0.03 * late
    scene.relief += 0.25 * s * (late - pores)
    if rng.random() < 0.3:  # joint between two boards
        at = rng.uniform(0.1, 0.9) * shape[0]
        board = np.sign(y - at) * rng.uniform(-0.06, 0.06)
        scene.albedo *= (1 + board + np.zeros(shape, np.float32))[..., None]
        scene.paint(0.75 * strokes(shape, np.array([[0, at, shape[1], at, 1.8 * s]])), light * 0.2)
    if rng.random() < 0.3:
        _print(rng, scene)
    _holes(rng, scene, rng.choice([0, 0, 1, 2]))
    return scene


SURFACE_PAINTERS: dict[str, Callable[[np.random.Generator, Shape, float], Scene]] = {
    "brushed_metal": brushed_metal,
    "cast": cast,
    "fabric": fabric,
    "leather": leather,
    "plastic": plastic,
    "wood": wood,
}


def make_surface(rng: np.random.Generator, name: str, shape: Shape) -> Scene:
    """A surface of (H, W) pixels, turned by up to 8 degrees."""
    scale = min(shape) / REFERENCE_SIDE
    angle = rng.uniform(-8, 8)
    height, width = shape
    margin = int(np.sin(np.radians(8)) * max(shape) / 2) + 2
    padded = (height + 2 * margin, width + 2 * margin)
    scene = SURFACE_PAINTERS[name](rng, padded, scale)
    turn = cv2.getRotationMatrix2D((padded[1] / 2, padded[0] / 2), angle, 1.0)
    turn[:, 2] -= margin

    def turned(field: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(field.astype(np.float32), turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)

    return Scene(
        np.clip(turned(scene.albedo), 0, 1),
        turned(scene.relief),
        turned(scene.void),
        scene.substrate,
        scale,
    )
