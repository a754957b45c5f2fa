"""Images per second that the training loader delivers, with the bare decode of the same files as the limit; how long a
large dataset takes to open, and how much memory its workers take.

python benchmarks/data_loading.py --image_size 512
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from chip import synchronize, write_json
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.data.defect_dataset import DefectDataset, as_tensor, make_loader, usable_workers  # noqa: E402
from dinov3.data.defect_images import read_for_size, read_image  # noqa: E402
from dinov3.data.defect_manifest import COLUMNS, FORMAT_VERSION, SPLITS, Manifest, read_manifest  # noqa: E402
from dinov3.data.defect_masks import read_mask  # noqa: E402
from dinov3.data.defect_prepare.writer import DatasetWriter  # noqa: E402
from dinov3.data.defect_transforms import eval_transform  # noqa: E402
from dinov3.defect_errors import run_script  # noqa: E402

FILES = 4  # different images of each size, one of them defective; they are read over and over
H100_RATE = 500  # images per second


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--megapixels", type=float, nargs="+", default=[1, 5, 20])
    add("--formats", nargs="+", default=["jpeg", "png"], choices=["jpeg", "png"])
    add("--image_size", type=int, default=512)
    add("--batch_size", type=int, default=4)
    default_workers = sorted({0, 1, 2, os.cpu_count() or 1})
    add("--workers", type=int, nargs="+", default=default_workers, help="loading processes, 0: in the main one")
    add("--repeats", type=int, default=5, help="rounds; each times every kind once, and the median counts")
    add("--seconds", type=float, default=0.5, help="about how long one kind takes in a round")
    add("--rows", type=int, default=100_000, help="of the dataset that is opened; 0 leaves that part out")
    add("--cached", action="store_true", help="load images, too, that were decoded before and kept as BMP files")
    add("--device", help="decode JPEG files on this device, too, with torchvision")
    add("--json", type=Path, help="write the figures to this file, too")
    return parser


def photograph(rng: np.random.Generator, megapixels: float) -> np.ndarray:
    """(H, W, 3) uint8, 4:3: clouds of every size from the frame down to 4 pixels, and the grain of a sensor."""
    height = round(math.sqrt(megapixels * 1e6 * 3 / 4) / 8) * 8
    width = height * 4 // 3
    image = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, int(math.log2(height)) - 1):
        coarse = rng.normal(0, 40 / 1.35**octave, (2**octave + 1, 2**octave + 1, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image += cv2.GaussianBlur(rng.normal(0, 8, (height, width, 1)).astype(np.float32), (3, 3), 0.6)[..., None]
    return image.clip(0, 255).astype(np.uint8)


def write_dataset(folder: Path, megapixels: float, suffix: str, cached_side: int | None = None) -> Manifest:
    """A dataset folder of ``FILES`` photographs, the first one with a defect of about 2% of the area.

    Args:
        cached_side: keep what is decoded of each for images of this side, not the photograph.
    """
    rng = np.random.default_rng(0)
    with DatasetWriter(folder / "data") as writer:
        for number in range(FILES):
            image = photograph(rng, megapixels)
            height, width = image.shape[:2]
            mask = np.zeros((height, width), np.uint8)
            cv2.ellipse(mask, (width // 2, height // 3), (width // 10, height // 15), 30, 0, 360, 1, -1)
            path = folder / f"{number}.{suffix}"
            Image.fromarray(image).save(path, **({"quality": 90} if suffix == "jpeg" else {}))
            if cached_side is not None:
                decoded, path = read_for_size(path, cached_side)[0], path.with_suffix(".bmp")
                Image.fromarray(decoded).save(path)
                mask = cv2.resize(mask, decoded.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            label = "normal" if number else "defect"
            name = path.name
            row = {"label": label, "split": "train", "group": name, "source": "made"}
            writer.add(path, name, None if number else mask, **row)
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="benchmark")


class BareDecode(Dataset):
    """Only decodes a row's files to arrays: ``full`` as Pillow does by default, else as the loader does."""

    def __init__(self, manifest: Manifest, image_size: int, full: bool):
        self.manifest, self.image_size, self.full = manifest, image_size, full

    def __getitem__(self, key: tuple[int, int]) -> int:
        path, mask = (self.manifest.root / self.manifest.columns[name][key[0]] for name in ("image", "mask"))
        if self.full:
            with Image.open(path) as image:
                np.asarray(image.convert("RGB"))
        else:
            read_for_size(path, self.image_size)
        if mask != self.manifest.root:
            read_mask(mask)
        return key[0]


def seconds_per_image(loader: DataLoader) -> float:
    """Wall time of one pass, by image."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return (time.perf_counter() - start) / len(loader.sampler)


def measure_loader(manifest: Manifest, args: argparse.Namespace) -> list[dict[str, float]]:
    """Print a line per number of workers, and return the figures."""
    figures = []
    datasets = {
        "loader": DefectDataset(manifest, args.image_size, augment=True),
        "decode": BareDecode(manifest, args.image_size, full=False),
        "full": BareDecode(manifest, args.image_size, full=True),
    }
    trial = make_loader(datasets["decode"], 1, num_workers=0, sampler=[(i, i) for i in range(FILES)])
    images = max(round(args.seconds / seconds_per_image(trial)), 2)  # per worker and round
    for workers in args.workers:
        keys = [(i % FILES, i) for i in range(images * max(workers, 1))]
        batch_size = min(args.batch_size, images)
        loaders = {n: make_loader(d, batch_size, num_workers=workers, sampler=keys) for n, d in datasets.items()}
        for loader in loaders.values():
            seconds_per_image(loader)  # starts the workers, which stay
        rounds = [{name: seconds_per_image(loader) for name, loader in loaders.items()} for _ in range(args.repeats)]
        seconds = statistics.median(r["loader"] for r in rounds)
        # Ratios within a round, as the machine's speed drifts between rounds.
        decode, full = (statistics.median(r[name] / r["loader"] for r in rounds) for name in ("decode", "full"))
        needed = math.ceil(H100_RATE * seconds * max(workers, 1))
        print(f"  {workers:>7} {1 / seconds:>10.1f} {decode:>15.0%} {full:>16.2f} {needed:>20}", flush=True)
        found = {"workers": workers, "images_per_second": 1 / seconds, "of_decode": decode, "of_full_decode": full}
        figures.append(found)
    return figures


def decode_rate(manifest: Manifest, args: argparse.Namespace) -> float:
    """Images per second that one process reads, decodes on ``--device`` and resizes there, a batch at a time."""
    device = torch.device(args.device)
    paths = [str(manifest.root / name) for name in manifest.columns["image"]]

    def decode(count: int) -> None:
        files = [read_file(path) for path in islice(cycle(paths), count)]
        resize = eval_transform(args.image_size)
        torch.stack([resize(image) for image in decode_jpeg(files, ImageReadMode.RGB, device)])
        synchronize(device)

    decode(args.batch_size)
    images, start = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - start < args.seconds * args.repeats:
        decode(args.batch_size)
        images += args.batch_size
    return images / (time.perf_counter() - start)


def compare_decodes(manifest: Manifest, image_size: int) -> None:
    """Print what decoding at a part of the size changes after resizing."""
    path = manifest.root / manifest.columns["image"][0]
    reduced, (height, width) = read_for_size(path, image_size)
    if reduced.shape[0] < height:
        resize = eval_transform(image_size)
        a, b = (resize(as_tensor(pixels).permute(2, 0, 1)).float() for pixels in (read_image(path), reduced))
        difference = a - b
        print(
            f"  {width} x {height} decoded at {reduced.shape[1]} x {reduced.shape[0]}: once resized, "
            f"{difference.square().mean().sqrt():.2f} grey values (RMS) from the full decode, at most "
            f"{difference.abs().max():.0f}"
        )


class CopiedManifest(Manifest):
    """Pickled plainly, as any object is: each spawned worker gets its own copy."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def own_megabytes() -> float:
    """Memory of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class TableMemory(Dataset):
    """Its item, one per worker: the megabytes that go when the worker drops the table after reading all of it."""

    def __init__(self, manifest: Manifest):
        self.manifest = manifest

    def __getitem__(self, index: int) -> float:
        for column in self.manifest.columns.values():
            (column == "").sum()
        before = own_megabytes()
        del self.manifest
        return before - own_megabytes()


def measure_opening(rows: int) -> None:
    """Open a manifest of ``rows`` rows, and read it in two workers."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        info = {"format_version": FORMAT_VERSION, "classes": ["normal", "defect"], "mask_classes": ["defect"]}
        (root / "dataset.json").write_text(json.dumps(info))
        with (root / "manifest.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for i in range(rows):
                name = f"line_{i % 7}/2026-11-{i % 28 + 1:02d}/part_{i:06d}.jpg"
                mask, label = (f"masks/{name}.png", "defect") if i % 4 == 0 else ("", "normal")
                writer.writerow([f"images/{name}", mask, label, SPLITS[i % 5 % 3], f"part_{i:06d}", f"/photos/{name}"])
        times = []
        for _ in range(3):
            start = time.perf_counter()
            manifest = read_manifest(root)
            times.append(time.perf_counter() - start)
    megabytes = sum(column.nbytes for column in manifest.columns.values()) / 2**20
    print(f"\n{rows:,} rows open in {statistics.median(times):.2f} s; the table takes {megabytes:.0f} MB")
    if not Path("/proc/self/smaps_rollup").exists():
        print("  memory of workers: only measured on Linux")
        return
    copied = CopiedManifest(root, manifest.classes, manifest.mask_classes, manifest.columns)
    tables = {("fork", "shared"): manifest, ("spawn", "shared"): manifest, ("spawn", "copied"): copied}
    for (method, name), table in tables.items():
        multiprocessing.set_start_method(method, force=True)
        own = [float(value) for value in make_loader(TableMemory(table), None, num_workers=2, sampler=[0, 1])]
        print(f"  {method}, {name}: {max(own):.0f} MB of its own per worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = build_parser().parse_args(argv)
    args.workers = sorted({usable_workers(n) for n in args.workers})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print(
        f"{args.image_size} px, batches of {args.batch_size}, {platform.machine()} CPU, {os.cpu_count()} cores, "
        f"torch {torch.__version__}"
    )
    figures = []
    for megapixels, suffix in product(args.megapixels, args.formats):
        with tempfile.TemporaryDirectory() as folder:
            figures += measure_files(Path(folder), megapixels, suffix, args)
            write_json(args.json, {"cores": os.cpu_count(), "files": figures})
    if args.rows:
        measure_opening(args.rows)
    return 0


def measure_files(folder: Path, megapixels: float, suffix: str, args: argparse.Namespace) -> list[dict[str, float]]:
    """Print all about files of one kind, and return the figures, one for each number of workers."""
    manifest = write_dataset(folder / "files", megapixels, suffix)
    size = (manifest.root / manifest.columns["image"][0]).stat().st_size
    print(f"\n{megapixels:g} megapixels, {suffix.upper()} of {size / 1e6:.1f} MB")
    compare_decodes(manifest, args.image_size)
    header = "  workers   images/s   of its decode   of full decode   workers for an H100"
    print(header)
    figures = measure_loader(manifest, args)
    if args.device and suffix == "jpeg":
        try:
            rate = decode_rate(manifest, args)
            print(f"  decoded on {args.device} by one process: {rate:.1f} images/s", flush=True)
            figures = [found | {"gpu_decode_images_per_second": rate} for found in figures]
        except RuntimeError as error:  # torchvision may be built without
            print(f"  decoding on {args.device}: not possible here ({str(error).splitlines()[0]})", flush=True)
    if args.cached:
        print(f"  the same, decoded before and kept as BMP files\n{header}")
        cached = measure_loader(write_dataset(folder / "cached", megapixels, suffix, args.image_size), args)
        rates = [found["images_per_second"] for found in cached]
        figures = [one | {"cached_images_per_second": rate} for one, rate in zip(figures, rates, strict=True)]
    return [found | {"megapixels": megapixels, "format": suffix} for found in figures]


if __name__ == "__main__":
    run_script(main)
