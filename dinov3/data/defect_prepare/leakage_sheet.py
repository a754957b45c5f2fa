"""A picture sheet of leaks: each pair side by side, with names, splits and similarity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw, ImageOps
from PIL.PngImagePlugin import PngInfo

from dinov3.data.defect_drawing import INK, LINE, PAPER, SOFT_INK, font, font_for
from dinov3.data.defect_images import ImageReadError, read_image
from dinov3.data.defect_prepare.leakage import Leak
from dinov3.defect_display import on_a_line
from dinov3.defect_folder_kinds import PRODUCT

GROUND = (244, 245, 247)
SPLIT_COLORS = {"train": (0, 114, 178), "val": (176, 112, 0), "test": (190, 70, 0)}
SIDE, GAP, TEXT, HEADER = 236, 14, 76, 74  # pixels: of a picture, between things, below a pair, on top
COLUMNS = 3


def draw_leaks(leaks: Sequence[Leak], path: Path, root: Path, limit: int = 24) -> None:
    """Write a PNG of the first ``limit`` pairs.

    Args:
        leaks: one or more, the most alike first, as :func:`~dinov3.data.defect_prepare.leakage.find_leaks` gives them.
        path: the file to write.
        root: the dataset folder.
        limit: the most pairs to show.
    """
    shown = leaks[:limit]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    card = 2 * SIDE + 3 * GAP, SIDE + GAP + TEXT
    width = max(columns * (card[0] + GAP) + GAP, 760)
    sheet = Image.new("RGB", (width, HEADER + rows * (card[1] + GAP)), GROUND)
    draw = ImageDraw.Draw(sheet)
    number = f"{len(leaks)} pairs in different splits show the same" if len(leaks) > 1 else "1 pair in different splits"
    draw.text((2 * GAP, 28), number, INK, font(24), anchor="lm")
    what = f"the {len(shown)} most alike in structure, whatever the exposure; 0 is any two, 1 the same file"
    note = f"{on_a_line(root.name)}: {what}"
    draw.text((2 * GAP, 54), note, SOFT_INK, font_for(note, 15), anchor="lm")
    for i, leak in enumerate(shown):
        left, top = GAP + i % columns * (card[0] + GAP), HEADER + i // columns * (card[1] + GAP)
        draw.rounded_rectangle((left, top, left + card[0], top + card[1]), 8, PAPER, LINE)
        for side, (name, split) in enumerate([(leak.image_a, leak.split_a), (leak.image_b, leak.split_b)]):
            x = left + GAP + side * (SIDE + GAP)
            sheet.paste(_thumbnail(root / name), (x, top + GAP))
            _caption(draw, name, split, x, top + GAP + SIDE)
        text = leak.kind if leak.score is None or leak.score == 1 else f"similarity {leak.score:.2f}"
        draw.text((left + card[0] - GAP, top + card[1] - 15), text, INK, font(15), anchor="rm")
    path.parent.mkdir(parents=True, exist_ok=True)
    said = PngInfo()
    said.add_text("Software", PRODUCT)  # by which the next run knows it
    sheet.save(path, format="PNG", pnginfo=said)


def _thumbnail(path: Path) -> Image.Image:
    """(SIDE, SIDE), the whole image on the sheet's ground."""
    try:
        image = Image.fromarray(read_image(path))
    except ImageReadError:
        image = Image.new("RGB", (SIDE, SIDE), LINE)
        ImageDraw.Draw(image).text((SIDE / 2, SIDE / 2), "cannot be read", SOFT_INK, font(15), anchor="mm")
    return ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.LANCZOS, GROUND)


def _caption(draw: ImageDraw.ImageDraw, name: str, split: str, x: int, y: int) -> None:
    """Split, file name, and the folder below it."""
    badge = draw.textbbox((x + 7, y + 19), split, font(14), anchor="lm")
    draw.rounded_rectangle((x, y + 9, badge[2] + 7, y + 29), 5, SPLIT_COLORS.get(split, SOFT_INK))
    draw.text((x + 7, y + 19), split, PAPER, font(14), anchor="lm")
    start = badge[2] + 15
    path = PurePosixPath(name)
    _fit(draw, path.name, start, y + 19, x + SIDE, INK)
    _fit(draw, "/".join(path.parent.parts[1:]), x, y + 45, x + SIDE, SOFT_INK)


def _fit(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, end: int, color: tuple[int, int, int]) -> None:
    """Text from ``x`` to ``end`` at most; of a longer one the end is shown, which tells files apart."""
    text = on_a_line(text)[-500:]  # more than fits
    face, cut = font_for(text, 14), text
    while draw.textlength(cut, face) > end - x and len(cut) > 2:
        text = text[1:]
        cut = "…" + text
    draw.text((x, y), cut, color, face, anchor="lm")
