"""Servers for the tests of serving; this process runs no engine itself, as it forks others."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.forking import Launcher
from helpers.inspecting import records_of, write_images
from helpers.serving import KEY, Servers


@pytest.fixture(scope="session")
def servers(launcher: Launcher) -> Servers:
    return Servers(launcher)


@pytest.fixture(scope="session")
def served_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of toy.onnx, strict.onnx, which rejects everything, broken.onnx and a file of keys."""
    from helpers.networks import small_facts
    from helpers.toy_onnx import write_toy

    folder = tmp_path_factory.mktemp("models")
    write_toy(folder / "toy.onnx", small_facts())
    write_toy(folder / "strict.onnx", small_facts(thresholds={"classification": 0.0, "mask": 0.5}))
    (folder / "broken.onnx").write_bytes((folder / "toy.onnx").read_bytes()[:-200])
    (folder / "keys.txt").write_text(f"# who may\nline:{KEY}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def served_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Forty images, no two alike, of two sizes."""
    folder = tmp_path_factory.mktemp("images")
    names = [f"a/{name}" for name in write_images(folder / "a", 20, size=24)]
    names += [f"b/{name}" for name in write_images(folder / "b", 20, size=40)]
    for number, name in enumerate(names):  # so that names tell them apart
        (folder / name).rename(folder / f"{number:02}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="session")
def offline(
    servers: Servers, served_models: Path, served_images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """What the inspection script says of each image, by name."""
    output = tmp_path_factory.mktemp("expected") / "results"
    flags = ["--image_dir", served_images[0].parent, "--output_dir", output, "--no_report", "--no_visualize"]
    assert servers.script("inference_defect_model", "--checkpoint", served_models / "toy.onnx", *flags) == 0
    return {record["image"]: record for record in records_of(output)}
