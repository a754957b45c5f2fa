"""The station's pages: a server with a database of each kind, and browsers on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.networks import small_facts
from helpers.serving import Server, Servers
from helpers.toy_onnx import write_toy
from PIL import Image

LIMITS = {"classification": 0.7, "review": 0.4, "mask": 0.5}


class Station:
    """A server with a results database, and what reads that beside it."""

    def __init__(self, server: Server, store: Any, folder: Path):
        self.server, self.store, self.folder = server, store, folder
        self.address = f"http://127.0.0.1:{server.port}"

    def inspect(self, name: str, value: int, **labels: str) -> dict[str, Any]:
        """Send an image of one brightness, with a white square if that is above 60; its row in the database."""
        from urllib.parse import urlencode

        pixels = np.full((40, 60), value, np.uint8)
        pixels[10:20, 10:20] = 255 if value > 60 else value
        file = self.folder / "sent.png"
        Image.fromarray(pixels).save(file)
        query = urlencode({"name": name} | labels)
        kind = {"Content-Type": "application/octet-stream"}
        assert self.server.ask("POST", f"/v1/inspect?{query}", file.read_bytes(), kind).status == 200
        return next(iter(self.store.rows(name=name, order="newest", limit=1)))

    def history(self, row: dict[str, Any]) -> list[tuple[str, str, str | None, str]]:
        """Who decided what."""
        kinds = ("person", "decision", "class_name", "comment")
        return [tuple(one[kind] for kind in kinds) for one in self.store.decisions(row["id"])]


@contextmanager
def running_station(servers: Servers, folder: Path, url: str, *flags: object) -> Iterator[Station]:
    """A station with a model of three classes, which accepts what is dark and rejects what is bright."""
    from dinov3.defect_station.store import Store

    facts = small_facts(thresholds=LIMITS, mask_classes=("scratch",), calibration=CALIBRATION)
    model = write_toy(folder / "toy.onnx", facts)
    server = servers.start(model, "--store", url, "--store_images", folder / "kept", *flags)
    with Store.open(url) as store:
        yield Station(server, store, folder)
    server.child.send(15)
    assert server.child.status(20) == 0, server.child.log.read_text()


CALIBRATION = {
    "target": "miss rate at most 5.00%",
    "target_values": {"max_miss_rate": 0.05},
    "promise": "miss rate at most 5.00% on average",
    "images": 82,
    "defects": 42,
    "parts": 82,
}


@pytest.fixture
def open_screen(browser: Any) -> Iterator[Callable[..., Any]]:
    """``open_screen(address)`` opens a page in a browser of its own; at the end, no script has failed or was stopped,
    and nothing was asked of another place."""
    contexts, problems, requests = [], [], []

    def heard(message: Any) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            problems.append(message.text)

    def opened(
        address: str, locale: str = "en-US", name: str = "", size: tuple[int, int] = (1280, 860), **more: Any
    ) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale=locale, **more)
        if name:
            context.add_init_script(f"localStorage.setItem('defect-review-name', {name!r})")
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", heard)
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        contexts.append(context)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("http://127.0.0.1:", "blob:", "data:"))] == []


def serious_violations(page: Any) -> list[str]:
    """What axe-core finds of what it calls serious or critical."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-core: pip install axe-playwright-python"
    )
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} ({node.get('failureSummary', '')[:300]})"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
