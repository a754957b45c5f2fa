"""The pictures of the station's pages in the guides, from the demo and a model of it.

python benchmarks/station_pictures.py --checkpoint checkpoints/demo/stage3_uncertainty/best_accuracy.pth \\
    --data_root data/demo --output_dir docs

What the model says of the demo's images is spread over four weeks, in which a made-up person reviews; what the pages
show of it is made by the server. Needs a Chromium, and ``pip install '.[train,server,station,browser]'``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image  # noqa: E402

from dinov3.defect_errors import DefectError, run_script  # noqa: E402
from dinov3.defect_station.store import Inspected, Store  # noqa: E402
from dinov3.defect_station.store.inspected import time_text  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
WIDE, TABLET = (1280, 860), (820, 1180)
# File, page, language, size, what to wait for.
PICTURES = (
    ("station_live", "/", "en-US", WIDE, "#latest article img"),
    ("station_review", "/review?image={flagged}", "en-US", WIDE, "#stage img"),
    ("station_review.zh-CN", "/review?image={flagged}", "zh-CN", TABLET, "#stage img"),
    ("station_statistics", "/statistics", "en-US", WIDE, "svg rect"),
)
DAYS, A_DAY = 28, 260
PERSON = "Li Wei"


def main() -> None:
    """Inspect, spread over days, serve, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data_root", type=Path, required=True, help="the demo, as prepare_defect_data.py made it")
    parser.add_argument("--output_dir", type=Path, default=Path("docs"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        once, spread = Path(folder, "once.sqlite"), Path(folder, "station.sqlite")
        images = ("--image_dir", args.data_root / "images", "--output_dir", Path(folder, "results"))
        command = [sys.executable, EXAMPLES / "inference_defect_model.py", "--checkpoint", args.checkpoint, *images]
        subprocess.run([*command, "--store", once, "--no_report", "--no_visualize"], check=True)
        with Store.open(str(once)) as results, Store.open(str(spread)) as store:
            fill(store, list(results.rows()))
            today = time_text(datetime.now().astimezone() - timedelta(hours=1))
            flagged = next(row["id"] for row in store.rows(since=today, order="doubt") if row["regions"])
        with serving(args.checkpoint, spread) as port:
            take(f"http://127.0.0.1:{port}", args.output_dir, flagged)


def fill(store: Store, rows: list[dict[str, Any]]) -> None:
    """Rows of four weeks, the last of them now, from those of one inspection."""
    rng, now = random.Random(0), datetime.now().astimezone()
    same = "content_hash model verdict thresholds predicted_class decided_by probabilities defect_probability".split()
    same += "disagreement regions image_path mask_path".split()
    good = [row for row in rows if row["verdict"] == "accept"]
    images = []
    for days in range(DAYS, -1, -1):
        for number in range(A_DAY - (rng.randrange(80) if days else 0)):
            row = rng.choice(rows if rng.random() < 0.4 else good)  # a line makes more good parts than the demo
            time = now - timedelta(days=days, seconds=(A_DAY - number) * (50 if days else 4))
            name, part = f"{row['name'].removesuffix('.png')}-{days:02}{number:03}.png", f"P-{days:02}{number:03}"
            images.append(Inspected(name=name, part=part, time=time_text(time), **{key: row[key] for key in same}))
    store.add(images)
    for row in store.rows(undecided=True):
        old = row["time"] < time_text(now - timedelta(hours=20))
        if old and (row["verdict"] == "review" or rng.random() < 0.03):
            decision = "reject" if rng.random() < row["defect_probability"] else "accept"
            name = "defect" if decision == "reject" else None
            with mock.patch("dinov3.defect_station.store.store.now", lambda time=row["time"]: time):
                store.decide(row["id"], PERSON, decision, class_name=name)


@contextlib.contextmanager
def serving(checkpoint: Path, store: Path) -> Iterator[int]:
    """The port of a server on the database."""
    command = [sys.executable, EXAMPLES / "serve_defect_model.py", "--checkpoint", checkpoint, "--store", store]
    server = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("event") == "serving":
                threading.Thread(target=server.stderr.read, daemon=True).start()  # so that it never waits
                yield told["port"]
                return
        raise DefectError(f"the server ended with status {server.wait()}")
    finally:
        server.terminate()
        server.wait()


def take(address: str, folder: Path, flagged: int) -> None:
    """Write the pictures."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, page_path, locale, (width, height), awaited in PICTURES:
            context = browser.new_context(viewport={"width": width, "height": height}, locale=locale)
            context.add_init_script(f"localStorage.setItem('defect-review-name', '{PERSON}')")
            page = context.new_page()
            page.goto(address + page_path.format(flagged=flagged))
            page.wait_for_selector(awaited)
            page.wait_for_timeout(3000)  # for all pictures
            shot = Path(folder, f"{name}.png")
            page.screenshot(path=shot)
            with Image.open(shot) as image:
                image.convert("RGB").save(folder / f"{name}.webp", quality=80, method=6)
            shot.unlink()
            context.close()
        browser.close()


if __name__ == "__main__":
    run_script(main)
