"""The page that every HTML report is: one file without network access, in English and Chinese.

Fixed text is put in with :func:`both`, which holds both languages and lets the stylesheet show one. Text that a
script writes, and attributes such as ``placeholder``, come from ``lang_texts`` of :func:`page`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dinov3.data.defect_drawing import INK, LINE, hex_color
from dinov3.inference.visualize import ACCEPT_COLOR, REJECT_COLOR, REVIEW_COLOR

FONTS = '"Segoe UI", "Helvetica Neue", Arial, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif'


STYLE = f"""
:root {{ --ink: {hex_color(INK)}; --soft: #5d646d; --line: {hex_color(LINE)}; --ground: #f4f5f7; --paper: #fff;
  --accept: {hex_color(ACCEPT_COLOR)}; --review: {hex_color(REVIEW_COLOR)}; --reject: {hex_color(REJECT_COLOR)};
  --blue: #0072b2; }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
html[data-lang=en] .zh, html[data-lang=zh] .en {{ display: none; }}
body {{ margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, {FONTS}; }}
header.top {{ background: var(--paper); border-bottom: 1px solid var(--line); }}
header.top > div {{ display: flex; gap: 16px; align-items: center; justify-content: space-between; }}
header.top > div, main {{ max-width: 1280px; margin: 0 auto; padding: 14px 24px; }}
h1 {{ font-size: 20px; margin: 0; }}
h2 {{ font-size: 17px; margin: 0 0 10px; }}
h3 {{ font-size: 15px; margin: 16px 0 6px; }}
p {{ margin: 6px 0; max-width: 85ch; }}
.soft {{ color: var(--soft); }}
section {{ background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 16px 0; }}
button, select, input {{ font: inherit; color: inherit; }}
button {{ background: var(--paper); border: 1px solid #c4c9cf; border-radius: 7px; padding: 4px 12px;
  cursor: pointer; }}
button:hover {{ border-color: var(--blue); }}
button:focus-visible, a:focus-visible {{ outline: 3px solid #56b4e9; outline-offset: 1px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 10px; }}
.card {{ border: 1px solid var(--line); border-radius: 8px; padding: 9px 13px; border-left: 4px solid var(--line); }}
.card b {{ display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }}
.card small {{ display: block; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }}
.card.accept {{ border-left-color: var(--accept); }}
.card.review {{ border-left-color: var(--review); }}
.card.reject {{ border-left-color: var(--reject); }}
.badge {{ display: inline-block; border-radius: 5px; padding: 0 7px; color: #fff; background: var(--soft);
  font-size: 13px; }}
.badge.accept {{ background: var(--accept); }}
.badge.review {{ background: var(--review); color: #201800; }}
.badge.reject {{ background: var(--reject); }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 8px 24px; }}
.columns > * {{ min-width: 0; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 14px; }}
th, td {{ padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }}
th {{ font-weight: 600; color: var(--soft); white-space: nowrap; }}
td.num, th.num {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
td.name {{ overflow-wrap: anywhere; }}
figure {{ margin: 0; }}
figcaption {{ font-size: 13px; color: var(--soft); overflow-wrap: anywhere; line-height: 1.4; }}
figure > svg {{ width: 100%; height: auto; display: block; }}
svg text {{ font-family: system-ui, {FONTS}; }}
.sheet {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 14px; }}
.sheet img {{ width: 100%; height: auto; display: block; border-radius: 6px; background: var(--ground); }}
details > summary {{ cursor: pointer; color: var(--blue); }}
@media (max-width: 640px) {{
  header.top > div, main {{ padding: 10px 12px; }}
  section {{ padding: 14px 12px; border-radius: 8px; }}
  .sheet {{ grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }}
}}
@media print {{ body {{ background: #fff; }} section {{ break-inside: avoid; }} header button {{ display: none; }} }}
"""

# The language is the reader's last choice, else the browser's. A page from a file may have no storage.
SCRIPT = """
const TEXTS = JSON.parse(document.getElementById("texts").textContent);
let lang = (navigator.language || "en").startsWith("zh") ? "zh" : "en";
try { lang = localStorage.getItem("defect-report-lang") || lang; } catch (error) {}
function t(key) { return (TEXTS[key] || [key, key])[lang === "zh" ? 1 : 0]; }
function setLang(value) {
  lang = value;
  try { localStorage.setItem("defect-report-lang", lang); } catch (error) {}
  document.documentElement.dataset.lang = lang;
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  document.getElementById("lang").textContent = lang === "zh" ? "English" : "中文";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const name of ["placeholder", "title", "aria-label"])
    for (const element of document.querySelectorAll(`[data-text-${name}]`))
      element.setAttribute(name, t(element.getAttribute(`data-text-${name}`)));
  document.dispatchEvent(new CustomEvent("lang"));
}
document.getElementById("lang").addEventListener("click", () => setLang(lang === "zh" ? "en" : "zh"));
"""


def page(
    title: tuple[str, str],
    body: str,
    *,
    lang_texts: Mapping[str, tuple[str, str]] | None = None,
    script: str = "",
    style: str = "",
) -> str:
    """A complete HTML document.

    Args:
        title: in English and in Chinese, plain text; the page's heading.
        body: HTML, usually of ``<section>`` elements.
        lang_texts: key to (English, Chinese). ``t(key)`` in ``script`` gives the one in force;
            ``data-text="key"`` on an element sets its text, ``data-text-placeholder``, ``data-text-title`` and
            ``data-text-aria-label`` that attribute. After each switch the document gets a ``lang`` event.
        script: JavaScript that runs once the body is there, with ``t``, ``lang`` and ``setLang``, before the language
            is set for the first time.
        style: more CSS.
    """
    return f"""<!DOCTYPE html>
<html lang="en" data-lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title[0])}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<header class="top"><div><h1>{both(*title)}</h1><button id="lang" type="button">中文</button></div></header>
<main>
{body}
</main>
{data_script("texts", dict(lang_texts or {}))}
<script>{SCRIPT}{script}
setLang(lang);</script>
</body>
</html>
"""


def both(english: str, chinese: str) -> str:
    """Plain text in both languages, as HTML that shows the one in force."""
    if english == chinese:
        return escape(english)
    return f'<span class="en" lang="en">{escape(english)}</span><span class="zh" lang="zh-CN">{escape(chinese)}</span>'


def data_script(name: str, value: Any) -> str:
    """JSON for scripts: ``JSON.parse(document.getElementById(name).textContent)``.

    ``value`` may hold any text; NaN and infinity are refused (ValueError), as browsers cannot parse them.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")  # nothing that could end the element
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def data_uri(image: np.ndarray | Image.Image, *, kind: str = "jpeg", quality: int = 82) -> str:
    """An (H, W, 3) or (H, W) uint8 array or a PIL image as ``data:`` address, of kind jpeg, png or webp."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if kind == "jpeg" and picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({} if kind == "png" else {"quality": quality}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_tag(
    image: np.ndarray | Image.Image, alt: str = "", *, kind: str = "jpeg", quality: int = 82, lazy: bool = True
) -> str:
    """An ``<img>`` that holds its pixels."""
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    loading = ' loading="lazy"' if lazy else ""
    return (
        f'<img src="{data_uri(image, kind=kind, quality=quality)}" alt="{escape(alt)}" width="{width}" '
        f'height="{height}"{loading}>'
    )


def figure_svg(figure: Figure, caption: str = "", chinese: Mapping[str, str] | None = None) -> str:
    """A matplotlib figure as inline SVG, with text as text.

    Args:
        caption: HTML below it.
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
        svg = re.sub(pattern, lambda m, e=english, z=translated: _svg_text(m[1], e, z), svg)
    return f"<figure>{svg}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"


def _svg_text(attributes: str, english: str, chinese: str) -> str:
    pair = (("en", english), ("zh", chinese))
    return "".join(f'<text class="{lang}"{attributes}>{escape(text, quote=False)}</text>' for lang, text in pair)


def card(label: str, value: str, note: str = "", kind: str = "") -> str:
    """One number for ``<div class="cards">``; ``kind``: accept, review, reject or none. All are HTML."""
    return (
        f'<div class="card {kind}"><small>{label}</small><b>{value}</b>{f"<small>{note}</small>" if note else ""}</div>'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of HTML cells that scrolls sideways where it must; ``numbers``: the columns set to the right."""
    right = set(numbers)

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = (' class="num"' if i in right else "" for i in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", header)}</thead>\n<tbody>\n{body}\n</tbody></table></div>'
