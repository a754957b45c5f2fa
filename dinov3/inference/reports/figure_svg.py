"""A matplotlib figure as part of a page, in English and Chinese."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from html import escape

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure


def figure_svg(figure: Figure, chinese: Mapping[str, str] | None = None) -> Markup:
    """A ``<figure>`` of inline SVG, with text as text.

    Args:
        figure: its texts may be of any script.
        chinese: translation of the figure's texts, each of which stands alone (a label, a title, a legend entry).
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser draws them
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The page's fonts take over, which have Chinese glyphs; matplotlib's style names them in one of two ways.
    svg = re.sub(r"font-family: [^;\"]*(; )?", "", svg)
    svg = re.sub(r"font: (?:\w+ )*([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for english, translated in (chinese or {}).items():
        pattern = rf"<text([^>]*)>{re.escape(escape(english, quote=False))}</text>"
        svg = re.sub(pattern, lambda m, e=english, z=translated: _text_pair(m[1], e, z), svg)
    return Markup(f"<figure>{svg}</figure>")


def _text_pair(attributes: str, english: str, chinese: str) -> str:
    pair = (("en", english), ("zh", chinese))
    return "".join(f'<text class="{lang}"{attributes}>{escape(text, quote=False)}</text>' for lang, text in pair)
