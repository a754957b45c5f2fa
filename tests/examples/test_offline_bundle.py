"""The bundle for machines without internet: it is complete or not made, and installs whole or not at all."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

DEPLOY = ROOT / "examples/deploy"
sys.path.append(str(DEPLOY))
from offline_bundle import copy_texts, write_sums  # noqa: E402
from wheelhouse import Target, find_missing  # noqa: E402

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
LINUX, WINDOWS = Target("3.10", "manylinux_2_28_x86_64"), Target("3.12", "win_amd64")


def write_wheel(folder: Path, name: str, version: str, *needs: str, **files: str) -> Path:
    """A wheel that needs these packages; ``files``: its modules, and ``entry_points``."""
    folder.mkdir(parents=True, exist_ok=True)
    told = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{told}/METADATA", metadata + "".join(f"Requires-Dist: {need}\n" for need in needs))
        archive.writestr(f"{told}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        for file, content in files.items():
            place = f"{told}/entry_points.txt" if file == "entry_points" else f"{file}.py"
            archive.writestr(place, content)
        archive.writestr(f"{told}/RECORD", "")
    return path


def test_what_is_needed_there_is_asked_for_there(tmp_path: Path) -> None:
    needs = ('color>=1; sys_platform == "win32"', 'older; python_version < "3.11"', 'web[fast]; extra == "server"')
    project = write_wheel(tmp_path, "project", "1.0", *needs, 'torch; extra == "train"')
    assert find_missing(tmp_path, project, ["server"], LINUX) == ["older", "web"]
    assert find_missing(tmp_path, project, ["server"], WINDOWS) == ["color>=1", "web"]
    write_wheel(tmp_path, "web", "2.0", 'speed>2; extra == "fast"', 'slow; extra == "other"')
    write_wheel(tmp_path, "color", "0.4")
    assert find_missing(tmp_path, project, ["server"], WINDOWS) == ["color>=1", "speed>2"]
    (tmp_path / "color-0.4-py3-none-any.whl").unlink()
    write_wheel(tmp_path, "color", "1.4")
    write_wheel(tmp_path, "speed", "3.0")
    assert find_missing(tmp_path, project, ["server"], WINDOWS) == []


def test_wheels_for_older_c_libraries_are_taken_too() -> None:
    assert LINUX.platforms[0] == "manylinux_2_28_x86_64" and LINUX.platforms[-1] == "manylinux2014_x86_64"
    assert "manylinux_2_29_x86_64" not in LINUX.platforms and WINDOWS.platforms == ["win_amd64"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), ("no.onnx", "no such file")),
        (("--model", ROOT / "docs/example.jpg"), ("example.jpg", "no ONNX file")),
        (("--platform", "linux"), ("--platform linux", "win_amd64")),
        (("--python", "2.7"), ("--python 2.7", "3.10 to 3.13")),
        (("--extras", "runtime,train"), ("--extras", "runtime,openvino,server")),
        (("--extras", "server"), ("--extras server", "add runtime or openvino")),
        (("--output_dir", ROOT / "examples"), ("--output_dir", "exists")),
    ],
)
def test_what_cannot_be_bundled_is_a_sentence(
    flags: tuple, says: tuple, script: Callable[..., tuple[int, str, str]], served_models: Path, tmp_path: Path
) -> None:
    model = served_models / ("no.onnx" if not flags else "toy.onnx")
    status, _, error = script("offline_bundle", "--model", model, "--output_dir", tmp_path / "bundle", *flags)
    assert status == 1 and all(text in error for text in says), error
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_nothing_is_left(
    script: Callable[..., tuple[int, str, str]], served_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    flags = ("--model", served_models / "toy.onnx", "--output_dir", tmp_path / "bundle")
    status, _, error = script("offline_bundle", *flags)
    assert status == 1 and "pip wheel failed" in error and "network" in error, error
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_without_pip_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" != -m ] || exit 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    command = ["bash", ROOT / "examples/make_offline_bundle.sh", "--model", "x.onnx", "--output_dir", tmp_path / "b"]
    done = subprocess.run(command, env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True)
    assert done.returncode == 1 and f"{python} has no pip" in done.stderr, done.stderr


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose project has a server that helps, and opens no model but one that says 'good'."""
    opening = "def open_engine(path, engine):\n    assert path.read_text() == 'good', 'this model is bad'\n"
    files = {"entry_points": "[console_scripts]\ndefect-serve = dinov3.helping:main\n", "dinov3/helping": "main = int"}
    files |= {"dinov3/models/defect_engines": opening}
    folder = tmp_path / "bundle"
    project = write_wheel(folder / "wheels", "dinov3_defect_detection", "1.0", **files)
    (folder / "models").mkdir()
    (folder / "models/model.onnx").write_text("bad")
    system = {"win32": "win_amd64", "darwin": "macosx_14_0_arm64"}.get(sys.platform, "manylinux_2_28_x86_64")
    told = {"project": project.name, "extras": ["runtime"], "python": HERE, "platform": system}
    (folder / "bundle.json").write_text(json.dumps(told))
    copy_texts(folder, HERE)
    write_sums(folder)
    return folder


def install(bundle: Path, folder: Path) -> str:
    """Install, which fails; what it says."""
    command = ["sh", bundle / "install.sh", folder]
    env = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and done.stderr.startswith("error: "), done.stderr
    return done.stderr


def test_a_bundle_that_is_not_whole_is_not_installed(bundle: Path, tmp_path: Path) -> None:
    place, model = tmp_path / "place", bundle / "models/model.onnx"
    extra = write_wheel(bundle / "wheels", "sneaked", "1.0")
    assert "sneaked-1.0-py3-none-any.whl is not in SHA256SUMS" in install(bundle, place)
    extra.unlink()
    model.write_text("bat")
    assert "models/model.onnx is damaged" in install(bundle, place)
    model.unlink()
    assert "models/model.onnx is missing" in install(bundle, place)
    told = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(told | {"python": "3.9"}))
    assert f"this is Python {HERE}" in install(bundle, place)
    assert not place.exists()


def test_a_failed_installation_leaves_the_one_before(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "venv").mkdir(parents=True)
    (place / "models").mkdir()
    (place / "models/model.onnx").write_text("before")
    (place / "venv/kept").touch()
    assert "no virtual environment" in install(bundle, place)
    (place / "venv/pyvenv.cfg").touch()
    shutil.copytree(place / "venv", place / "venv-previous")  # as a kill leaves it, with an unfinished one beside it
    (place / "venv/unfinished").touch()
    assert "the model failed" in (said := install(bundle, place)) and "this model is bad" in said
    assert sorted(path.name for path in (place / "venv").iterdir()) == ["kept", "pyvenv.cfg"]
    assert sorted(path.name for path in place.iterdir()) == ["models", "venv"]
    assert (place / "models/model.onnx").read_text() == "before"


def test_a_new_model_keeps_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DEPLOY / "bundle"))
    copy_model, model = importlib.import_module("install").copy_model, tmp_path / "new.onnx"
    for content in ("first", "second", "second"):
        model.write_text(content)
        copy_model(tmp_path / "models", model)
    kept = {path.name: path.read_text() for path in (tmp_path / "models").iterdir()}
    assert kept == {"model.onnx": "second", "model-previous.onnx": "first"}
