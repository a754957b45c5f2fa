"""HTML pages from templates: each one is a single file without network access, in English and Chinese.

A page's template begins with ``{% extends "base.html" %}``, says its ``title`` (English, Chinese) and fills the blocks
``body`` and perhaps ``data`` and ``script``. Templates escape what they print; they have these functions:

- ``both(english, chinese)``: a text in both languages, of which the stylesheet shows one;
- ``data_script(name, value)``: JSON for scripts; ``data_uri(image)``: the pixels of an image;
- ``static(name)``: a file of the folder ``static`` beside their own, or here.

Text that a script writes, and attributes such as ``placeholder``, come from ``texts`` (key to English and Chinese) of
the page: ``t(key)`` in its script gives the one in force; ``data-text="key"`` on an element sets its text, and
``data-text-placeholder``, ``data-text-title``, ``data-text-aria-label`` that attribute. After each switch the document
gets a ``lang`` event.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

HERE = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """The page of a template file; ``values`` are its variables."""
    return "".join(stream(template, **values))


def stream(template: Path, **values: Any) -> Iterator[str]:
    """The page piece by piece: what a variable yields that is an iterator is taken when its turn comes."""
    return _environment(template.parent).get_template(template.name).generate(**values)


@lru_cache
def _environment(templates: Path) -> Environment:
    folders = [templates, HERE / "templates"]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def static(name: str) -> Markup:
        places = (folder.parent / "static" / name for folder in folders)
        return Markup(next(place for place in places if place.is_file()).read_text(encoding="utf-8"))

    environment.globals |= {"both": both, "data_script": data_script, "data_uri": data_uri, "static": static}
    return environment


def both(english: str, chinese: str) -> Markup:
    """Text in both languages, as HTML that shows the one in force."""
    if english == chinese:
        return escape(english)
    return Markup(
        f'<span class="en" lang="en">{escape(english)}</span><span class="zh" lang="zh-CN">{escape(chinese)}</span>'
    )


def data_script(name: str, value: Any) -> Markup:
    """JSON for scripts, in one line: ``JSON.parse(document.getElementById(name).textContent)``.

    ``value`` may hold any text; NaN and infinity are refused (ValueError), as browsers cannot parse them.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")  # nothing that could end the element
    return Markup(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def data_uri(image: np.ndarray, quality: int = 82) -> str:
    """An (H, W, 3) uint8 RGB array as ``data:`` address of a JPEG."""
    jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
