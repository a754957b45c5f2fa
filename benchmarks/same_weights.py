"""Whether this working tree trains the same weights as another commit, bit for bit: three stages, one CPU thread.

python benchmarks/same_weights.py f443c32
python benchmarks/same_weights.py f443c32 -- --ema_decay 0.9 --accumulate 2     # flags of training behind --

What differs is named, and the exit status is 1. The other commit's run is kept in --work_dir and not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from dinov3.defect_cli import positive_int  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402

STAGES = ("stage1_frozen", "stage2_finetune", "stage3_uncertainty")
FILES = ("last.pth", "best_accuracy.pth", "best_iou.pth")
# What holds tensors that training makes, by its key in a checkpoint.
PARTS = ("model", "criterion", "optimizer", "training_state")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("revision", help="commit, branch or tag to compare with")
    add("flags", nargs="*", help="flags of train_defect_model.py for all stages of both, behind --")
    add("--backbone", default="efficientnet_lite0")
    add("--images", type=positive_int, default=48, help="of the demo dataset")
    add("--image_size", type=positive_int, default=64)
    add("--batch_size", type=positive_int, default=8)
    add("--epochs", type=positive_int, nargs=3, default=[1, 2, 1], help="of the three stages")
    add("--work_dir", type=Path, default=Path("runs/same_weights"))
    return parser


def call(command: Sequence[object], tree: Path, settings: dict[str, object]) -> None:
    """Run ``command`` in ``tree``, in one thread; its output is shown only if it fails.

    Raises:
        DefectError: it does.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PATH": path}
    env |= {name: str(value) for name, value in settings.items()}
    done = subprocess.run([str(part) for part in command], cwd=tree, env=env, capture_output=True, text=True)
    if done.returncode:
        raise DefectError(f"{tree}: {' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")


def check_out(revision: str, folder: Path) -> Path:
    """A copy of ``revision`` below ``folder``, by its full name; its files as they were committed.

    Raises:
        DefectError: there is no such revision.
    """
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--verify", revision + "^{commit}"], capture_output=True, text=True)
    if found.returncode:
        raise DefectError(f"{revision}: no such commit here; git log names some")
    tree = folder / found.stdout.strip()
    if not tree.is_dir():
        tree.parent.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run([*git, "archive", tree.name], capture_output=True, check=True).stdout
        unfinished = tree.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        subprocess.run(["tar", "-x", "-C", str(unfinished)], input=archive, check=True)
        unfinished.replace(tree)
    return tree


def train(tree: Path, args: argparse.Namespace, data: Path, save_dir: Path) -> None:
    """The three stages of ``tree``; those that are finished already are not done again."""
    settings = {"DATA_ROOT": data, "SAVE_DIR": save_dir, "BACKBONE": args.backbone, "IMAGE_SIZE": args.image_size}
    settings |= {"BATCH_SIZE": args.batch_size, "NUM_WORKERS": 0, "CUDA_VISIBLE_DEVICES": ""}
    settings |= {f"STAGE{number}_EPOCHS": epochs for number, epochs in enumerate(args.epochs, start=1)}
    call(["bash", "examples/train_large_dataset.sh", "--device", "cpu", *args.flags], tree, settings)


def tensors(value: Any, place: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dicts and lists, with its path."""
    if isinstance(value, torch.Tensor):
        yield place, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from tensors(item, f"{place}/{key}")


def compare(one: Path, other: Path) -> tuple[int, list[str]]:
    """How many tensors of two checkpoints were compared, and those that differ, with the largest difference."""
    contents = [torch.load(path, map_location="cpu", weights_only=True) for path in (one, other)]
    found, expected = (
        dict(pair for part in PARTS if part in content for pair in tensors(content[part], part)) for content in contents
    )
    differences = [f"{name}: in one of them only" for name in found.keys() ^ expected.keys()]
    for name in found.keys() & expected.keys():
        a, b = found[name], expected[name]
        if a.shape != b.shape:
            differences.append(f"{name}: {tuple(a.shape)} and {tuple(b.shape)}")
        elif not torch.equal(a, b):
            differences.append(f"{name}: by up to {(a.double() - b.double()).abs().max():.3g}")
    return len(expected), sorted(differences)


def main(argv: Sequence[str] | None = None) -> int:
    """Train both, compare, print."""
    args = build_parser().parse_args(argv)
    work_dir = args.work_dir.resolve()
    tree = check_out(args.revision, work_dir / "trees")
    data = work_dir / f"data_{args.images}"
    if not (data / "manifest.csv").is_file():
        command = [sys.executable, "examples/prepare_defect_data.py", "demo", "--num_images", args.images]
        call([*command, "--output_dir", data], tree, {})
    setting = f"{args.backbone} {args.images} {args.image_size} {args.batch_size} {args.epochs} {args.flags}"
    folder = work_dir / hashlib.sha256(setting.encode()).hexdigest()[:12]
    mine, theirs = folder / "this", folder / tree.name
    shutil.rmtree(mine, ignore_errors=True)
    train(tree, args, data, theirs)
    train(ROOT, args, data, mine)
    count, differences = 0, []
    for stage in STAGES:
        for file in FILES:
            compared, found = compare(mine / stage / file, theirs / stage / file)
            count += compared
            differences += [f"{stage}/{file}: {line}" for line in found]
    print(f"{count} tensors of {len(STAGES) * len(FILES)} checkpoints: {len(differences)} differ from {args.revision}")
    print("\n".join(f"  {line}" for line in differences[:40]), end="\n" if differences else "")
    return 1 if differences else 0


if __name__ == "__main__":
    run_script(main)
