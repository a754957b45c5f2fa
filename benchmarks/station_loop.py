"""The loop of examples/GUIDE_station.md on solar cells, with the commands that people give: train on half of the parts,
inspect the other half into a database, review, select 50, correct, append, train again, compare.

DEFECT_DATA_DIR=/path/to/sets python benchmarks/station_loop.py --work_dir runs/station_loop

The person who reviews and corrects is a script that knows the true masks. A step that is done is not done again: stop
at any time and give the same command. Both models are also held against the line's other parts, none of whose images
were selected.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from accuracy_data import find_source  # noqa: E402

from dinov3.data.defect_prepare.splits import find_group, read_groups  # noqa: E402
from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.defect_station.prelabel.formats import PreLabel, write_labelme  # noqa: E402
from dinov3.defect_station.store import Store  # noqa: E402

REVIEWED = 30  # images that the person decides on, the most doubtful first
TRAIN = ["--backbone", "efficientnet_lite0", "--decoder", "multiscale", "--image_size", "160", "--num_workers", "0"]


class Loop:
    """The folders of one walk, and its steps in order."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.work = args, args.work_dir
        self.source = find_source("solar_cells")
        self.known, self.line, self.data = self.work / "known", self.work / "line", self.work / "data"
        self.store, self.labels = self.work / "results.sqlite", self.work / "to_label"

    def run(self) -> None:
        """Do what is not done yet."""
        self.work.mkdir(parents=True, exist_ok=True)
        steps: list[tuple[str, Callable[[], None]]] = [
            ("half of the parts", self.split),
            ("organize", self.organize),
            ("train the old model", lambda: self.train("old", self.args.epochs)),
            ("inspect", self.inspect),
            ("review", self.review),
            ("select", self.select),
            ("correct", self.correct),
            ("append", self.append),
            ("train the new model", lambda: self.train("new", self.args.more_epochs, "--init_from", self.model("old"))),
            ("compare on test", lambda: self.compare(self.data, "comparison")),
            ("the line's other parts", self.organize_rest),
            ("compare on the line", lambda: self.compare(self.work / "rest", "comparison_line")),
        ]
        for number, (name, step) in enumerate(steps):
            done = self.work / f"done_{number:02}"
            if not done.is_file():
                begun = time.perf_counter()
                step()
                done.write_text(f"{time.perf_counter() - begun:.0f} s", encoding="utf-8")
            print(f"{name}: {done.read_text(encoding='utf-8')}", flush=True)

    def command(self, script: str, *flags: object) -> None:
        """Run a script of examples/; what it says goes to the end of log.txt."""
        line = [sys.executable, str(ROOT / "examples" / f"{script}.py"), *map(str, flags)]
        with (self.work / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n$ python examples/{script}.py {' '.join(map(str, flags))}\n")
            log.flush()
            subprocess.run(line, check=True, stdout=log, stderr=subprocess.STDOUT)

    def model(self, name: str) -> Path:
        """The checkpoint of a training."""
        return self.work / name / "best_accuracy.pth"

    def mask_of(self, name: str) -> np.ndarray:
        """What is true of an image, ``defect/NAME`` or ``normal/NAME``: (H, W) of 0 and 1."""
        if name.startswith("defect/"):
            path = self.source / "masks" / f"{Path(name).stem}.png"
            return (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) >= 128).astype(np.uint8)
        return np.zeros(cv2.imread(str(self.source / name), cv2.IMREAD_GRAYSCALE).shape, np.uint8)

    def split(self) -> None:
        """Copy the images: one half of the parts to known/, the other to line/."""
        groups = read_groups(self.source / "groups.csv")
        names = [p.relative_to(self.source) for kind in ("defect", "normal") for p in (self.source / kind).iterdir()]
        parts = np.array([find_group(name, groups) or name.as_posix() for name in names])
        chosen = np.random.default_rng(self.args.seed).permutation(np.unique(parts))
        is_known = np.isin(parts, chosen[: len(chosen) // 2])
        for name, known in zip(names, is_known.tolist(), strict=True):
            place = (self.known if known else self.line) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.source / name, place)

    def organize(self) -> None:
        """The dataset in use, of the known half."""
        self.organize_folder(self.known, self.data, "--test_split", 0.3)

    def organize_folder(self, folder: Path, output: Path, *flags: object) -> None:
        """A dataset of a folder's images with their true masks."""
        images = ["--defect_images", folder / "defect", "--normal_images", folder / "normal"]
        masks = folder / "masks"
        masks.mkdir(exist_ok=True)
        for path in (folder / "defect").iterdir():
            shutil.copyfile(self.source / "masks" / f"{path.stem}.png", masks / f"{path.stem}.png")
        groups = ["--group_csv", self.source / "groups.csv", "--no-group_similar"]
        more = ["--defect_masks", masks, "--output_dir", output]
        self.command("prepare_defect_data", "organize", *images, *more, *groups, *flags)

    def train(self, name: str, epochs: int, *flags: object) -> None:
        """Train, and choose the thresholds."""
        folder = ["--data_root", self.data, "--save_dir", self.work / name]
        self.command("train_defect_model", *folder, *TRAIN, "--epochs", epochs, *flags)
        target = ["--data_root", self.data, "--max_miss_rate", 0.1, "--max_overkill", 0.1]
        self.command("calibrate_defect_model", "--checkpoint", self.model(name), *target)

    def inspect(self) -> None:
        """All images of the line, into the database."""
        images = ["--image_dir", self.line, "--output_dir", self.work / "results", "--store", self.store]
        more = ["--part_csv", self.source / "groups.csv", "--no_visualize", "--no_report"]
        self.command("inference_defect_model", "--checkpoint", self.model("old"), *images, *more)

    def review(self) -> None:
        """A person decides on the most doubtful images."""
        with Store.open(str(self.store), must_exist=True) as store:
            for row in list(store.rows(undecided=True, order="doubt", limit=REVIEWED)):
                is_bad = row["name"].startswith("defect/")
                decision = "reject" if is_bad else "accept"
                store.decide(row["id"], "script", decision, class_name="defect" if is_bad else None, after=0)

    def select(self) -> None:
        """50 images to label, with the model's regions."""
        self.command("select_defect_images", "--store", self.store, "--count", 50, "--output_dir", self.labels)

    def correct(self) -> None:
        """A person makes the outlines true."""
        for row in self.selected():
            (self.labels / "images" / row["image"]).with_suffix(".json").unlink(missing_ok=True)
            write_labelme(self.labels, [PreLabel(row["image"], self.mask_of(row["source"]), {1: "defect"}, "accept")])

    def selected(self) -> list[dict[str, str]]:
        """The rows of selection.csv."""
        with (self.labels / "selection.csv").open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))

    def append(self) -> None:
        """The new labels join the dataset."""
        groups = ["--group_csv", self.source / "groups.csv", "--no-group_similar"]
        self.command(
            "prepare_defect_data", "import", "labelme", self.labels, "--output_dir", self.data, "--append", *groups
        )

    def organize_rest(self) -> None:
        """A dataset of the parts of which no image was selected, nearly all of it for testing."""
        rest, taken = self.work / "rest_images", {row["part"] for row in self.selected()}
        groups = read_groups(self.source / "groups.csv")
        for path in self.line.rglob("*.*"):
            name = path.relative_to(self.line).as_posix()
            if (find_group(Path(name), groups) or name) not in taken:
                (rest / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(path, rest / name)
        self.organize_folder(rest, self.work / "rest", "--val_split", 0, "--test_split", 0.99)

    def compare(self, data: Path, output: str) -> None:
        """The old and the new model on the test images of a dataset."""
        models = ["--old", self.model("old"), "--new", self.model("new"), "--data_root", data]
        self.command("compare_defect_models", *models, "--output_dir", self.work / output)

    def print_outcome(self) -> None:
        """What there is to know."""
        with Store.open(str(self.store), must_exist=True) as store:
            print(f"\nthe line: {store.counts()}")
        rows = self.selected()
        bad = sum(row["source"].startswith("defect/") for row in rows)
        decided = sum(bool(row["decision"]) for row in rows)
        print(f"selected: {len(rows)}, {bad} with a defect, {decided} decided by a person")
        for name in ("comparison", "comparison_line"):
            record = json.loads((self.work / name / "comparison.json").read_text(encoding="utf-8"))
            print(f"\n{name}: {record['inspected']} images, flips {record['flips']}, {record['mcnemar']}")
            for metric, values in record["metrics"].items():
                difference, low, high = values["difference"]
                interval = "" if low is None else f" ({low:+.3f} to {high:+.3f})"
                print(f"  {metric}: {values['old']:.3f}, {values['new']:.3f}, {difference:+.3f}{interval}")


def main(argv: Sequence[str] | None = None) -> int:
    """Walk round, and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, default=Path("runs/station_loop"))
    parser.add_argument("--epochs", type=int, default=6, help="of the old model")
    parser.add_argument("--more_epochs", type=int, default=4, help="of the new one, which starts from the old one")
    parser.add_argument("--seed", type=int, default=0, help="of the two halves")
    loop = Loop(parser.parse_args(argv))
    loop.run()
    loop.print_outcome()
    return 0


if __name__ == "__main__":
    run_script(main)
