"""Pages: nothing that a template prints can break them, and they look like the pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.report_page import Page

from dinov3.data.defect_drawing import INK, LINE, hex_color
from dinov3.defect_pages.html import both, data_script, render, stream
from dinov3.inference.visualize import VERDICT_COLORS

HOSTILE = "</script><b>&\u2028\"'"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "templates" / "page.html"
    path.parent.mkdir()
    path.write_text(
        """{% extends "base.html" %}
{% set title = (name, "中") %}
{% block body %}<p title="{{ name }}">{{ name }}</p>{{ both(name, "中") }}{% endblock %}
{% block data %}{{ data_script("data", name) }}
{% for piece in pieces %}{{ piece }}{% endfor %}{% endblock %}""",
        encoding="utf-8",
    )
    return path


def test_text_cannot_break_the_page(template: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render(template, name=HOSTILE, pieces=[HOSTILE]), encoding="utf-8")
    page = Page(tmp_path / "page.html")
    assert "b" not in {tag for tag, _ in page.tags}
    assert [attrs for tag, attrs in page.tags if tag == "p"] == [{"title": HOSTILE}]
    assert page.json("data") == HOSTILE
    assert page.text.count(HOSTILE) == 5  # title, heading, paragraph, both(), piece
    assert json.loads(re.search(r">(.*)<", data_script("x", {"k": HOSTILE}))[1]) == {"k": HOSTILE}
    assert "<b>" not in both("<b>", "<b>")
    with pytest.raises(ValueError, match="JSON"):
        data_script("x", float("nan"))


def test_a_page_is_streamed(template: Path) -> None:
    taken = []

    def pieces() -> Iterator[str]:
        for number in range(3):
            taken.append(number)
            yield f"piece {number}"

    page = stream(template, name="a", pieces=pieces())
    before = [taken[:] for text in page if text.startswith("piece")]
    assert before == [[0], [0, 1], [0, 1, 2]]


def test_pages_have_the_colors_of_the_pictures(template: Path) -> None:
    colors = {"ink": INK, "line": LINE, **VERDICT_COLORS}
    style = render(template, name="", pieces=[])
    assert {name: re.search(rf"--{name}: (#\w+)", style)[1] for name in colors} == {
        name: hex_color(color) for name, color in colors.items()
    }


def test_the_package_has_all_that_pages_are_made_of(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    built, ours = (
        {path.relative_to(root).as_posix() for name in ("templates", "static") for path in root.glob(f"**/{name}/*")}
        for root in (tmp_path / "dinov3", ROOT / "dinov3")
    )
    assert built == ours and "defect_pages/templates/base.html" in ours
