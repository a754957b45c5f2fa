"""How the masks of one source are to be read: which value is background, which is ignored. It is found out from all of
them together, or asked about once; the same reading then decides the pixels and the verdict of every image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import numpy as np

from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.mask_values import INDICES, Reading, Values, decode_values
from dinov3.data.defect_images import ImageReadError, open_image
from dinov3.data.defect_masks import IGNORE_INDEX
from dinov3.defect_errors import DefectError

BLACK, WHITE = 0, 0xFFFFFF
VOC_BORDER = 0xE0E0C0  # (224, 224, 192): 'void' around objects in masks in the colours of Pascal VOC
NEARLY = 32  # of 255: what JPEG makes of black
MANY = 256  # colours; a mask of more has soft edges or noise
FEW_LEVELS = 8  # values of masks without soft edges; more are not looked at one by one
INVERTED = 0.9  # of all pixels of all masks: hardly a defect
FEW_PIXELS = 9  # of class indices beside 255: strays, perhaps

MaskValue = int | tuple[int, int, int]


@dataclass(frozen=True)
class MaskRules:
    """What the values of masks mean.

    Attributes:
        background: as the user says: a grey value or index, or a colour; None to find out.
        ignored: the same of pixels that count for nothing; () for none; None to find out.
        reading: ``values``: all but the background is defect; ``half``: what is above half of the full value;
            ``auto``: by the looks of each mask.
        grey, colour: the background of grey masks and of coloured ones, as found out.
        index: whether 255 beside class indices is ignored, as found out.
    """

    background: MaskValue | None = None
    ignored: MaskValue | tuple[()] | None = None
    reading: Reading = "auto"
    grey: float = 0
    colour: int = BLACK
    index: bool = True

    def background_of(self, values: Values) -> float:
        """The code that is background in a mask; -1 where all that can be seen is defect."""
        if self.background is not None:
            return _code(values, self.background)
        codes = list(values.levels())
        found = float(self.grey if values.kind == "grey" else self.colour)
        if values.kind == "palette":
            black = [code for code in codes if not values.colors[int(code)].any()]
            found = black[0] if len(black) == 1 else 0
        if values.visible is not None and codes == [found]:
            return -1  # drawn in black, or index 0, on nothing
        return found

    def ignored_in(self, values: Values, background: float) -> list[float]:
        """The codes of a mask that count for nothing."""
        if self.ignored is not None:
            return [] if self.ignored == () else [_code(values, self.ignored)]
        if values.own:
            return [IGNORE_INDEX]
        kind, top = _convention(values, background)
        return [top] if kind == "beside" and self.index else []


def mask_value(text: str) -> MaskValue:
    """The value of ``--mask_background`` or ``--mask_ignored``: ``255``, or a colour such as ``#ffffff``.

    Raises:
        ValueError: neither.
    """
    if text.startswith("#") and len(text) == 7:
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(text)
    return value


def _code(values: Values, value: MaskValue) -> float:
    """How a mask writes a value; -1 if it cannot."""
    if values.kind == "palette" and isinstance(value, tuple):
        alike = [i for i in values.levels() if tuple(values.colors[int(i)].tolist()) == value]
        return alike[0] if alike else -1
    if values.kind == "colour":
        red, green, blue = value if isinstance(value, tuple) else (value,) * 3
        return red << 16 | green << 8 | blue if red < 256 else -1
    if isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else -1
    return value


def _convention(values: Values, background: float) -> tuple[Literal["beside", "few", "alone", "other"], float]:
    """How 255 (or its like) is used in a mask: beside class indices, beside very few pixels of them, alone, or not at
    all; and the code in question."""
    levels = values.levels()
    if values.lossy or values.own or background != 0:
        return "other", -1
    if values.kind == "colour":
        return ("beside" if VOC_BORDER in levels and len(levels.keys() - {background}) > 1 else "other"), VOC_BORDER
    top = 65535 if 65535 in levels else 255
    highest = 254 if values.kind == "palette" else INDICES
    others = [code for code in levels if code not in (background, top)]
    if top not in levels or any(not 0 < code <= highest or code != int(code) for code in others):
        return "other", -1
    if not others:
        return "alone", top
    return ("beside" if sum(levels[code] for code in others) >= FEW_PIXELS else "few"), top


@dataclass(frozen=True)
class _Seen:
    """What settling the rules needs of one mask."""

    path: Path
    kind: str
    levels: dict[float, int]
    convention: str
    odd_palette: bool


def survey_masks(paths: Sequence[Path], rules: MaskRules) -> MaskRules:
    """The rules for all masks of a source; a mask that cannot be read is passed over.

    Raises:
        DefectError: the masks leave it open which value is background, or whether 255 is ignored.
    """
    if not paths or (rules.background is not None and rules.ignored is not None):
        return rules
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        seen = [found for found in pool.imap(_look, paths, chunksize=8) if found]
    resolved, questions = _resolve(seen, rules)
    if questions:
        raise DefectError("; ".join(questions))
    return resolved


def rules_of_one(values: Values, rules: MaskRules) -> MaskRules:
    """The likeliest rules by a single mask, for a look at it that asks nobody."""
    return _resolve([_seen(Path(), values)], rules)[0]


def _look(path: Path) -> _Seen | None:
    try:
        values = decode_values(open_image(path), path.suffix.lower() in JPEG_SUFFIXES, [])
    except (ImageReadError, ValueError, OSError, MemoryError):
        return None
    return _seen(path, values)


def _seen(path: Path, values: Values) -> _Seen:
    levels, odd = values.levels(), False
    kind = values.kind if values.visible is None else "transparent"
    if kind == "palette":
        black = [code for code in levels if not values.colors[int(code)].any()]
        odd = len(black) == 1 and black[0] != 0 and 0 in levels and max(levels, key=levels.__getitem__) != black[0]
    if (values.lossy or len(levels) > MANY) and kind in ("grey", "colour"):
        levels = _smoothed(levels, kind)
    return _Seen(path, kind, levels, _convention(values, 0)[0], odd)


def _smoothed(levels: dict[float, int], kind: str) -> dict[float, int]:
    """Levels of a mask with noise: nearly black is black, nearly white is white, other colours are the commonest of
    those near to them."""
    codes, counts = np.array(list(levels)), np.array(list(levels.values()))
    if kind == "grey":
        full = max(255, codes.max())
        dark = counts[codes <= full * NEARLY / 255].sum()
        kept = {float(code): int(count) for code, count in levels.items() if code > full * NEARLY / 255}
        return ({0: int(dark)} if dark else {}) | kept
    channels = np.stack([codes.astype(int) >> shift & 255 for shift in (16, 8, 0)], 1)
    bins = (channels + NEARLY // 2) // NEARLY
    order = np.argsort(-counts, kind="stable")
    found: dict[tuple[int, ...], float] = {}
    merged: Counter[float] = Counter()
    for i in order:
        rgb = channels[i]
        code = BLACK if rgb.max() <= NEARLY else WHITE if rgb.min() >= 255 - NEARLY else codes[i]
        merged[found.setdefault(tuple(bins[i].tolist()), float(code))] += int(counts[i])
    return dict(merged)


def _resolve(seen: Iterable[_Seen], rules: MaskRules) -> tuple[MaskRules, list[str]]:
    """The rules that fit all masks best, and what has to be asked for them to be sure."""
    seen, questions = list(seen), []
    if rules.background is None:
        grey, ask = _ground([s for s in seen if s.kind == "grey"], str)
        questions += ask
        colour, ask = _ground([s for s in seen if s.kind == "colour"], lambda code: f"#{int(code):06x}")
        questions += ask
        rules = replace(rules, grey=grey, colour=int(colour))
        if odd := [s.path for s in seen if s.odd_palette]:
            questions.append(
                f"{odd[0]}{_more(odd)}: index 0 and a black index are in use: which is background? Say "
                "--mask_background 0 or #000000"
            )
    if rules.ignored is None:
        found = {kind: [s.path for s in seen if s.convention == kind] for kind in ("beside", "few", "alone")}
        if found["few"] or (found["beside"] and found["alone"]):
            one = (found["few"] or found["beside"])[0]
            alone = found["alone"]
            other = f", and {len(alone)} masks hold it alone, first {alone[0]}" if alone else ""
            questions.append(
                f"{one}{_more(found['few'] + found['beside'])}: 255 beside class indices{other}: is it a defect or "
                "ignored? Say --mask_ignored none or --mask_ignored 255"
            )
            rules = replace(rules, index=not (found["few"] and not found["beside"]))
    return rules, questions


def _ground(seen: Sequence[_Seen], named) -> tuple[float, list[str]]:
    """The background of masks of one kind, and a question if that is not clear."""
    counts: Counter[float] = Counter()
    for one in seen:
        counts.update(one.levels)
    if not counts or len(counts) == 1:
        return 0, []
    total, (commonest, most) = sum(counts.values()), counts.most_common(1)[0]
    colours = named(0) != "0"
    if counts[0]:
        white = WHITE if colours else 255
        several = 2 < len(counts) <= FEW_LEVELS
        if commonest == white and most > total * (0.5 if several else INVERTED):
            ask = f"{most / total:.0%} of them are white, the rest is black"
            ask += (
                " and others" * several + f": which is background? Say --mask_background {named(white)} or {named(0)}"
            )
            return 0, [f"{seen[0].path}{_more(seen)}: {ask}"]
        return 0, []
    lowest = min(counts)
    if most > total / 2 and (colours or commonest in (lowest, 255, 65535) or len(counts) > 2):
        return commonest, []
    values = ", ".join(named(int(code)) for code, _ in counts.most_common(5))
    ask = (
        f"no black, but {values}{', ...' if len(counts) > 5 else ''}: which is background? Say --mask_background VALUE"
    )
    return commonest if colours else lowest, [f"{seen[0].path}{_more(seen)}: {ask}"]


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - 1} more" if len(found) > 1 else ""
