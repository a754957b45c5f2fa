"""The server's page in a real browser: drop images, see verdicts, move limits, save results."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.networks import small_facts
from helpers.serving import KEY, Server, Servers
from helpers.toy_onnx import write_toy
from PIL import Image


@pytest.fixture(scope="module")
def server(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    facts = small_facts(thresholds={"classification": 0.7, "review": 0.4, "mask": 0.5})
    (folder / "keys").write_text(f"office:{KEY}\n")
    server = servers.start(write_toy(folder / "toy.onnx", facts), "--api_key_file", folder / "keys")
    yield server
    server.child.send(15)
    assert server.child.status(20) == 0


@pytest.fixture
def open_page(open_screen: Callable[..., Any], server: Server) -> Callable[..., Any]:
    """``open_page(locale)`` opens it."""
    return partial(open_screen, f"http://127.0.0.1:{server.port}/", size=(1300, 900))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """An image to accept, one to review, one to reject, and one that is none."""
    for name, value in (("dark", 30), ("grey", 140), ("=white", 220)):
        pixels = np.full((40, 60), value, np.uint8)
        pixels[10:20, 10:20] = 250
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "dark.png").read_bytes()[:60])
    return [tmp_path / f"{name}.png" for name in ("dark", "grey", "=white", "broken")]


def counts(page: Any) -> list[int]:
    return [int(page.locator(f"#count-{name}").inner_text()) for name in ("all", "accept", "review", "reject", "error")]


def test_images_are_inspected_and_saved(open_page: Any, files: list[Path], tmp_path: Path) -> None:
    page = open_page()
    page.fill("#key", "wrong")
    page.click("#key-form button")
    page.wait_for_selector("#problem:has-text('does not know this key')")
    page.fill("#key", KEY)
    page.click("#key-form button")
    page.wait_for_selector("#model:has-text('toy.onnx')")
    page.set_input_files("#files", files)
    page.wait_for_selector("#progress:has-text('all inspected')")
    assert counts(page) == [4, 1, 1, 1, 1]
    assert page.locator("article.failed").inner_text().startswith("! no verdict")
    assert "defect probability 0.57 >= 0.40 (review limit)" in page.locator("article.review").inner_text()
    assert page.locator("article.reject canvas.mask").is_visible()
    assert page.locator("article.reject canvas.mask").evaluate("c => getComputedStyle(c).opacity") == "1"
    marked = "c => c.getContext('2d').getImageData(0, 0, 60, 40).data.filter((v, i) => i % 4 == 3 && v).length"
    assert page.locator("article.accept canvas.mask").evaluate(marked) == 100
    page.check("input[value=attention]")
    assert page.locator("article.reject canvas.attention").is_visible()
    assert not page.locator("article.reject canvas.mask").is_visible()
    page.fill("#reject-value", "0.5")
    assert page.locator("article.review").inner_text().splitlines()[0].split() == ["?", "review", "→", "✕", "reject"]
    assert page.locator("#now-reject").inner_text() == "with these limits: 2"
    assert counts(page) == [4, 1, 1, 1, 1]
    page.click("#reset")
    assert page.locator("#now-reject").inner_text() == ""
    with page.expect_download() as saved:
        page.click("#save-json")
    records = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert [record.get("verdict") for record in records] == ["accept", "review", "reject", None]
    assert records[0]["model"]["name"] == "toy.onnx" and "mask" not in records[0]
    with page.expect_download() as saved:
        page.click("#save-csv")
    with Path(saved.value.path()).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["dark.png", "grey.png", "'=white.png", "broken.png"]
    assert [row["verdict"] for row in rows] == ["accept", "review", "reject", ""]
    page.click("#clear")
    assert page.locator("article").count() == 0


def test_the_page_in_chinese(open_page: Any, files: list[Path]) -> None:
    page = open_page("zh-CN")
    page.fill("#key", KEY)
    page.click("#key-form button")
    page.wait_for_selector("#model:has-text('模型：toy.onnx')")
    page.set_input_files("#files", files)
    page.wait_for_selector("#progress:has-text('全部检测完毕')")
    assert "缺陷概率 0.57 >= 0.40（复检阈值）" in page.locator("article.review").inner_text()
    page.click("#lang")
    assert "defect probability 0.57 >= 0.40" in page.locator("article.review").inner_text()
