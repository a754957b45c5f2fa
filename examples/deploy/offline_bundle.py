"""Pack all that a machine without internet needs to run the server.

bash examples/make_offline_bundle.sh --model export/best_accuracy.onnx --output_dir bundle
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wheelhouse import Target, download, run_pip

from dinov3 import __version__
from dinov3.defect_cli import flag, make_parser, parse
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_replace import UnfinishedFolder, remove_leftovers
from dinov3.models.defect_engines.onnx_file import read_facts
from dinov3.models.defect_facts import fingerprint

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SOURCES = ("setup.py", "pyproject.toml", "requirements-defect-detection.txt", "MANIFEST.in", "README.md")
LICENCES = ("LICENSE", "NOTICE")
GUIDES = ("GUIDE_line.md", "GUIDE_line.zh-CN.md")
SERVICE = ("defect-serve.service", "defect-serve.env", "defect-serve.xml")
EXTRAS = ("runtime", "openvino", "server", "station")  # those without torch


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """The flags of ``make_offline_bundle.sh``."""

    model: Path = flag(help="the .onnx file of export_defect_model.py to serve")
    output_dir: Path = flag(help="folder to make; must not exist")
    python: str = flag(f"{sys.version_info[0]}.{sys.version_info[1]}", "Python of the machine to install on")
    platform: str = flag("manylinux_2_28_x86_64", "its platform: manylinux_2_28_x86_64, win_amd64, macosx_14_0_arm64")
    extras: str = flag("runtime,server", f"what to install there, of {', '.join(EXTRAS)}")


def make_bundle(config: BundleConfig) -> list[str]:
    """Make the folder, whole or not at all; returns the names of its files.

    Raises:
        DefectError: the model, a flag or the folder cannot be used, or pip could not get a package.
    """
    extras = config.extras.split(",")
    if not set(extras) <= set(EXTRAS):
        raise DefectError(f"--extras {config.extras}: expected some of {','.join(EXTRAS)}, separated by commas")
    if not {"runtime", "openvino"} & {*extras}:
        raise DefectError(f"--extras {config.extras}: nothing in it runs a model; add runtime or openvino")
    if "server" not in extras:
        raise DefectError(f"--extras {config.extras}: the bundle installs a server; add server")
    target = Target(config.python, config.platform)
    facts = read_facts(config.model)
    place = config.output_dir.absolute()
    if os.path.lexists(place):
        raise DefectError(f"--output_dir {config.output_dir}: exists; remove it, or give another name")
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(place, place.parent)
    folder = UnfinishedFolder(place, place.parent, "make_offline_bundle.sh")
    try:
        wheels = folder.path / "wheels"
        project = build_wheel(folder.path / "source", wheels)
        print(f"Downloading wheels for Python {target.python} on {target.platform}", file=sys.stderr)
        download(wheels, project, extras, target)
        (folder.path / "models").mkdir()
        shutil.copyfile(config.model, folder.path / "models/model.onnx")
        copy_texts(folder.path, target.python)
        told = {"version": __version__, "project": project.name, "extras": extras, "python": target.python}
        told |= {"platform": target.platform, "model": config.model.name, "backbone": facts.backbone}
        (folder.path / "bundle.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        names = write_sums(folder.path)
        folder.move()
    finally:
        folder.remove()
    return names


def build_wheel(source: Path, wheels: Path) -> Path:
    """Build this project's wheel into ``wheels``, from a copy at ``source`` that is removed again.

    A copy, as setuptools would take along what earlier builds left in the checkout.
    """
    source.mkdir()
    for name in (*SOURCES, *LICENCES):
        shutil.copyfile(ROOT / name, source / name)
    shutil.copytree(ROOT / "dinov3", source / "dinov3", ignore=shutil.ignore_patterns("__pycache__"))
    run_pip("wheel", "--no-deps", "--wheel-dir", wheels, source)
    shutil.rmtree(source)
    return next(wheels.glob("*.whl"))


def copy_texts(folder: Path, python: str) -> None:
    """Copy installer, service files, guide and licences; ``@PYTHON@`` stands for the Python to install on."""
    for path in sorted((HERE / "bundle").glob("[a-zA-Z]*.*")):
        (folder / path.name).write_bytes(path.read_bytes().replace(b"@PYTHON@", python.encode()))
    (folder / "install.sh").chmod(0o755)
    for name in LICENCES:
        shutil.copyfile(ROOT / name, folder / name)
    for kind, place, names in (("service", HERE, SERVICE), ("guide", ROOT / "examples", GUIDES)):
        (folder / kind).mkdir()
        for name in names:
            shutil.copyfile(place / name, folder / kind / name)


def write_sums(folder: Path) -> list[str]:
    """Write SHA256SUMS, in the form of ``sha256sum``; returns the names of the files in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = [path.relative_to(folder).as_posix() for path in paths]
    lines = [f"{fingerprint(path)}  {name}\n" for path, name in zip(paths, names, strict=True)]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")
    return names


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(BundleConfig, __doc__)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the bundle and say what is in it."""
    config = parse(BundleConfig, build_parser(), argv)
    names = make_bundle(config)
    size = sum((config.output_dir / name).stat().st_size for name in names) / 1e6
    wheels = sum(re.match(r"wheels/", name) is not None for name in names)
    digest = hashlib.sha256((config.output_dir / "SHA256SUMS").read_bytes()).hexdigest()
    print(f"{config.output_dir}: {wheels} wheels, a model, guide and service files, {size:.0f} MB")
    print(f"SHA-256 of its SHA256SUMS, to compare on the other machine: {digest}")
    return 0


if __name__ == "__main__":
    run_script(main)
