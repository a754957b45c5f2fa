"""What the pixels of a mask image of any mode are: grey values, palette indices or colours, and which of them mark.

Two kinds of masks are in use. In one each value stands for something: a grey, a colour or an index per kind of defect,
and all that is not background is a defect. The other is a drawing: edges are soft, or a JPEG has put noise around
them, and the values in between stand for nothing. The first kind has flat areas (or lines) of every value; in the
second some values only lie along the edges of brighter ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from dinov3.data.defect_masks import is_own_palette

INDICES = 32  # grey values up to here, in a lossless file, are numbers of classes, however they lie
FLAT = 8 / 255  # of the full value: the range of a 3 x 3 area that still counts as flat in a soft mask
FLOOR = 1 / 8  # of the full value: fainter traces in a soft mask are noise
SHADES = 64  # a mask of more values than this may hold noise in isolated spots
GRADIENT = 8  # flat areas in more sixteenths of the range than this are a slope, not steps
_BOX3, _BOX5 = np.ones((3, 3), np.uint8), np.ones((5, 5), np.uint8)

Reading = Literal["auto", "values", "half"]
Remarks = list[tuple[str, str]]


@dataclass(frozen=True)
class Values:
    """A decoded mask image.

    Attributes:
        kind: what the codes are: grey values, indices of a palette, or colours as 0xRRGGBB.
        codes: (H, W), float32 for more than 8 bit and for colours.
        colors: (256, 3) uint8 of a palette; None otherwise.
        visible: (H, W) bool where an alpha channel hides some pixels; None otherwise.
        lossy: it was a JPEG file.
        own: it is a mask of a dataset of this project, by its palette.
    """

    kind: Literal["grey", "palette", "colour"]
    codes: np.ndarray
    colors: np.ndarray | None = None
    visible: np.ndarray | None = None
    lossy: bool = False
    own: bool = False

    def levels(self) -> dict[int | float, int]:
        """{code: pixels}, of what can be seen."""
        codes = self.codes if self.visible is None else self.codes[self.visible]
        if codes.dtype == np.uint8:
            counts = np.bincount(codes.ravel(), minlength=256)
            return {int(code): int(counts[code]) for code in np.flatnonzero(counts)}
        found, counts = np.unique(codes, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))

    def distance(self, background: int | float) -> np.ndarray:
        """(H, W) float32: how far each pixel is from the background, in grey values; 0 where nothing can be seen."""
        if self.kind == "grey":
            far = np.abs(self.codes.astype(np.float32) - np.float32(background))
        else:
            rgb = self._rgb().astype(np.int16)
            ground = self.colors[int(background)] if self.colors is not None else _unpacked(int(background))
            far = np.abs(rgb - ground.astype(np.int16)).max(axis=2).astype(np.float32)
        if self.visible is not None:
            far[~self.visible] = 0
        return far

    def _rgb(self) -> np.ndarray:
        if self.colors is not None:
            return self.colors[self.codes]
        packed = self.codes.astype(np.uint32)
        return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=2).astype(np.uint8)


def _unpacked(color: int) -> np.ndarray:
    return np.array([color >> 16, color >> 8 & 255, color & 255], np.uint8)


def decode_values(image: Image.Image, lossy: bool, remarks: Remarks) -> Values:
    """The values of a mask image, of any mode; ``lossy`` if it was a JPEG file."""
    visible = _visible(image, remarks)
    if image.mode in ("P", "PA"):
        indices = np.asarray(image if image.mode == "P" else image.getchannel("P"), dtype=np.uint8)
        colors = np.zeros((256, 3), np.uint8)
        given = np.asarray(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)[:256]
        colors[: len(given)] = given
        values = Values("palette", indices, colors, visible, own=is_own_palette(image))
        used = np.array(list(values.levels()), dtype=int)
        greys = colors[used]
        if not values.own and (greys == greys[:, :1]).all() and len(set(greys[:, 0].tolist())) == len(used) > 1:
            return replace(values, kind="grey", codes=colors[:, 0][indices], colors=None)
        return values
    if len(image.getbands()) == 1:
        codes = np.asarray(image)
        codes = codes.astype(np.uint8) if codes.dtype == bool else codes
        return Values("grey", codes if codes.dtype == np.uint8 else codes.astype(np.float32), None, visible, lossy)
    rgb = np.asarray(image.convert("RGB"))
    if (rgb == rgb[..., :1]).all():
        return Values("grey", np.ascontiguousarray(rgb[..., 0]), None, visible, lossy)
    packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return Values("colour", packed.astype(np.float32), None, visible, lossy)  # 24 bit are exact in float32


def _visible(image: Image.Image, remarks: Remarks) -> np.ndarray | None:
    """(H, W) bool of an alpha channel, a transparent colour or a palette's transparency; None if it hides nothing."""
    if "A" in image.getbands():
        alpha = np.asarray(image.getchannel("A"))
    elif "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    else:
        return None
    top = int(alpha.max())
    if alpha.min() == 255 or top == 0:
        if top == 0:
            remarks.append(("mask that is transparent throughout; read by its colours", image.mode))
        return None
    if not ((alpha > 0) & (alpha < top)).any():
        return alpha > 0
    # A border or pen stroke of little alpha belongs to what it surrounds; alone it may be all there is of a defect.
    return cut_at_half(alpha.astype(np.float32), _peaks(alpha.astype(np.float32), alpha > top * FLOOR))


def marks(values: Values, background: float, reading: Reading, remarks: Remarks) -> np.ndarray:
    """(H, W) bool: what is not background; in a mask with soft edges or noise, what is nearer to a defect than to it.

    Args:
        values: the mask.
        background: its code; -1 where all that can be seen is defect.
        reading: ``values`` takes all but the background, ``half`` what is above half of the full value (255, or the
            largest where that is above 255 or at most 1); ``auto`` decides by the looks.
        remarks: collects that a mask was cut.
    """
    on = values.codes != background
    if values.visible is not None:
        on &= values.visible
    if reading == "values" or not on.any():
        return on
    far = values.distance(max(background, 0))
    full = float(far.max())
    if reading == "half":
        return far > (full if full > 255 or full <= 1 else 255) / 2
    levels = [code for code in values.levels() if code != background]
    if not values.lossy and _exact(values, on, far, levels):
        return on
    soft = float(((far > full * 0.1) & (far < full * 0.9)).mean())
    detail = f"{len(levels) + 1} values, {soft:.2%} in between"
    remarks.append(("mask with soft edges or noise; cut at half", detail))
    return _cut_soft(far, values.lossy or len(levels) > SHADES)


def _exact(values: Values, on: np.ndarray, far: np.ndarray, levels: list[int | float]) -> bool:
    """Whether every value of a lossless mask stands for something of its own."""
    if len(levels) == 1 or (values.kind == "palette" and len(levels) <= SHADES):
        return True
    if values.kind == "grey" and 0 <= min(levels) and max(levels) <= INDICES and max(levels) == int(max(levels)):
        return True
    codes = values.codes.astype(np.float32)
    flat = on & (cv2.erode(codes, _BOX3) == cv2.dilate(codes, _BOX3))
    rest = on & ~np.isin(codes, np.unique(codes[flat]))
    # Values without any flat area are those of thin lines, or the shades beside something brighter.
    shaded = rest & (cv2.dilate(far, _BOX5) > far)
    found, inverse = np.unique(codes[rest], return_inverse=True)
    beside = np.bincount(inverse, shaded[rest], len(found)) / np.bincount(inverse, minlength=len(found))
    return not (beside > 0.5).any()


def _cut_soft(far: np.ndarray, noisy: bool) -> np.ndarray:
    """The areas of a soft mask. Each is cut at half of its own value, so that a dark kind beside a bright one is not
    lost, nor a fine line that is nowhere as bright as a large area."""
    full = float(far.max())
    on = far > full * FLOOR
    steps = on & (cv2.dilate(far, _BOX3) - cv2.erode(far, _BOX3) <= full * FLAT)
    sixteenths = (far[steps] * (16 / full)).astype(int)
    shares = np.bincount(sixteenths, minlength=17) / max(len(sixteenths), 1)
    common = shares >= 0.02
    steps[steps] = common[sixteenths] & (common.sum() <= GRADIENT)
    plateau = np.where(steps, far, np.inf)
    count, areas, stats, _ = cv2.connectedComponentsWithStats(on.astype(np.uint8), connectivity=8)
    peak, low = np.zeros(count, np.float32), np.full(count, np.inf, np.float32)
    np.maximum.at(peak, areas.ravel(), far.ravel())
    np.minimum.at(low, areas.ravel(), plateau.ravel())
    own = np.where(np.isfinite(low), low, peak)
    if noisy:  # what JPEG leaves around an edge
        own[(stats[:, cv2.CC_STAT_AREA] < 9) & (peak < full / 2)] = np.inf
    own[0] = np.inf
    return cut_at_half(far, own[areas])


def _peaks(far: np.ndarray, on: np.ndarray) -> np.ndarray:
    """(H, W): the largest value of the connected area that a pixel is in; infinite outside of them."""
    count, areas = cv2.connectedComponents(on.astype(np.uint8), connectivity=8)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, areas.ravel(), far.ravel())
    peak[0] = np.inf
    return peak[areas]


def cut_at_half(far: np.ndarray, full: np.ndarray) -> np.ndarray:
    """(H, W) bool: above half of the full value."""
    return far > full / 2
