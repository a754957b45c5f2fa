"""Inspection in an environment without torch: makes one, installs the package with the extras ``runtime`` and
``server``, inspects images with an exported model, and measures the size of the environment and a cold start.

python benchmarks/torch_free.py --checkpoint export/best_accuracy.onnx --image_dir data/demo/images
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The aims: MB of site-packages with a server, seconds and MB from the start of Python to the first answer.
MOST_PACKAGES, MOST_SECONDS, MOST_MEMORY = 350, 2.0, 200
COLD_START = """
import json, resource, sys, time
start = time.perf_counter()
from dinov3.inference import DefectPredictor
predictor = DefectPredictor.from_checkpoint(sys.argv[1], "cpu", threads=1)
predictor(sys.argv[2])
seconds, memory = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "memory_mb": memory, "torch": "torch" in sys.modules}))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Make, inspect, measure; 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help=".onnx file from export_defect_model.py")
    parser.add_argument("--image_dir", type=Path, required=True)
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        scripts = environment / ("Scripts" if os.name == "nt" else "bin")
        python = scripts / "python"
        run(folder, python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"{ROOT}[runtime,server]")
        flags = ("--checkpoint", args.checkpoint.resolve(), "--image_dir", args.image_dir.resolve())
        print(run(folder, scripts / "defect-inspect", *flags, "--output_dir", Path(folder) / "results"), end="")
        image = json.loads((Path(folder) / "results/predictions.json").read_text(encoding="utf-8"))[0]["image"]
        command = (python, "-c", COLD_START, args.checkpoint.resolve(), (args.image_dir / image).resolve())
        starts = [json.loads(run(folder, *command)) for _ in range(args.starts)]
        size = packages_mb(environment)
    if any(start["torch"] for start in starts):
        sys.exit("torch was imported: the environment is not what it should be")
    seconds, memory = (statistics.median(start[name] for start in starts) for name in ("seconds", "memory_mb"))
    print(f"site-packages with a server, without pip and bytecode: {size:.0f} MB (aim {MOST_PACKAGES})")
    print(f"cold start to the first answer: {seconds:.2f} s (aim {MOST_SECONDS}), {memory:.0f} MB (aim {MOST_MEMORY})")
    return int(size > MOST_PACKAGES or seconds > MOST_SECONDS or memory > MOST_MEMORY)


def run(folder: str, *command: object) -> str:
    """Run a command outside of the repository, and return what it prints."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def packages_mb(environment: Path) -> float:
    """What the installed packages take, in millions of bytes."""
    skipped = {"pip", "setuptools", "pkg_resources", "__pycache__"}
    (folder,) = environment.glob("[lL]ib/**/site-packages")
    files = (path for path in folder.rglob("*") if not skipped & set(path.relative_to(folder).parts))
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
