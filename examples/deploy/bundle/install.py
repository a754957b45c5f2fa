"""Install from this bundle, without a network: python3 install.py FOLDER.

Checks every file against SHA256SUMS, makes FOLDER/venv, copies the model to FOLDER/models/model.onnx and opens it. What
was installed there before stays until all of this went well; a former model is kept as model-previous.onnx.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRY_MODEL = "import sys; from pathlib import Path; from dinov3.models.defect_engines import open_engine; "
TRY_MODEL += "open_engine(Path(sys.argv[1]), engine=sys.argv[2])"


class BundleError(Exception):
    """Why it cannot be installed, in a sentence."""


def check_machine(told: dict) -> None:
    """Raise BundleError if the bundle is for another Python or system."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != told["python"]:
        raise BundleError(
            f"this is Python {here}, and the bundle's wheels are for {told['python']}: run it with that one"
        )
    system = {"win32": "win", "darwin": "macosx"}.get(sys.platform, "manylinux")
    if not told["platform"].startswith(system):
        raise BundleError(f"the bundle is for {told['platform']}; this machine needs one for {system}")


def check_sums() -> None:
    """Raise BundleError for the first file that is missing, damaged, or not of the bundle."""
    expected = {}
    for line in (HERE / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        expected[name] = digest
    for name, digest in expected.items():
        path = HERE / name
        if not path.is_file():
            raise BundleError(f"{name} is missing; copy the bundle again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise BundleError(f"{name} is damaged: its SHA-256 is not that in SHA256SUMS; copy the bundle again")
    for path in (HERE / "wheels").iterdir():
        if f"wheels/{path.name}" not in expected:
            raise BundleError(f"wheels/{path.name} is not in SHA256SUMS; remove it, or copy the bundle again")


def install(told: dict, folder: Path) -> None:
    """Install into ``folder``; a failure leaves what was there."""
    place, previous, outdated = (folder / name for name in ("venv", "venv-previous", "venv-outdated"))
    if place.exists() and not (place / "pyvenv.cfg").is_file():
        raise BundleError(f"{place} is no virtual environment; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(outdated, ignore_errors=True)
    if previous.exists():  # a kill cut an installation short
        shutil.rmtree(place, ignore_errors=True)
        previous.rename(place)
    if place.exists():
        place.rename(previous)  # on Windows, not while a service runs from it
    try:
        model = fill(told, place)
        copy_model(folder / "models", model)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        if previous.exists():
            previous.rename(place)
        raise
    if previous.exists():
        previous.rename(outdated)
    shutil.rmtree(outdated, ignore_errors=True)


def fill(told: dict, place: Path) -> Path:
    """Make the virtual environment, and open the model with it; returns the model's path in the bundle."""
    try:
        venv.create(place, with_pip=True)
    except subprocess.CalledProcessError:
        raise BundleError(
            "this Python makes no environment with pip; install its package python3-venv (Debian, Ubuntu)"
        ) from None
    programs, ending = (place / "Scripts", ".exe") if os.name == "nt" else (place / "bin", "")
    python, model = programs / f"python{ending}", HERE / "models/model.onnx"
    project = f"{HERE / 'wheels' / told['project']}[{','.join(told['extras'])}]"
    pip = [python, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "-q", "--no-index"]
    run("pip", [*pip, "--find-links", HERE / "wheels", project])
    run("defect-serve", [programs / f"defect-serve{ending}", "--help"])
    run("the model", [python, "-c", TRY_MODEL, model, "onnx" if "runtime" in told["extras"] else "openvino"])
    return model


def run(name: str, command: list) -> None:
    """Run a command; BundleError with its last words if it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}  # no packages of others
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", cwd=HERE, env=env)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise BundleError(f"{name} failed: {' '.join(said[-3:])[:600]}")


def copy_model(folder: Path, model: Path) -> None:
    """Copy the model; one of other content that is there keeps a name."""
    folder.mkdir(exist_ok=True)
    target, unfinished = folder / "model.onnx", folder / "model.unfinished"
    if target.exists() and target.read_bytes() == model.read_bytes():
        return
    shutil.copyfile(model, unfinished)
    if target.exists():
        shutil.copyfile(target, folder / "model-previous.onnx")
    unfinished.replace(target)


def main() -> int:
    """Install into the folder that the command names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python3 install.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1]).absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        told = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
        check_machine(told)
        check_sums()
        install(told, folder)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or folder}: {error.strerror}; nothing was changed", file=sys.stderr)
        return 1
    server = folder / ("venv/Scripts/defect-serve.exe" if os.name == "nt" else "venv/bin/defect-serve")
    print(f"Installed. Try it: {server} --checkpoint {folder / 'models/model.onnx'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
