"""Tiny real data and models for the tests; no network."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from helpers.drawing import draw_nothing  # noqa: E402
from helpers.forking import Launcher  # noqa: E402

from dinov3.data.defect_manifest import Manifest  # noqa: E402
from dinov3.data.defect_prepare.writer import DatasetWriter  # noqa: E402
from dinov3.defect_errors import run_script  # noqa: E402

pytest_plugins = ["helpers.browser", "helpers.postgresql", "helpers.screens", "helpers.serving_fixtures"]
LAUNCHER = pytest.StashKey[Launcher]()
torch.set_num_threads(1)
cv2.setNumThreads(1)  # a child has no threads of a pool that was begun before it forked, and would wait for them
# The same examples in every run: what passes here passes everywhere. New ones: pytest --hypothesis-profile=default
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")


@pytest.fixture(scope="module")
def sessions_end() -> Iterator[None]:
    """No session of onnxruntime or OpenVINO outlives the module's tests: a forked child that collects one waits for
    threads that it does not have."""
    yield
    gc.collect()


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a script of examples/ in this process: ``script("name", "--flag", value)`` -> status, stdout, stderr."""

    def run(name: str, *args: object) -> tuple[int, str, str]:
        module = importlib.import_module(name)
        with pytest.raises(SystemExit) as exit_info:
            run_script(lambda: module.main([str(a) for a in args]))
        out, err = capsys.readouterr()
        return int(exit_info.value.code or 0), out, err

    return run


def square_image(rng: np.random.Generator, defect: bool, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Noise (size, size, 3) with, if defective, a dark square; and its mask of 0 and 1."""
    image = rng.normal(140, 12, (size, size, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    mask = np.zeros((size, size), np.uint8)
    if defect:
        y, x = rng.integers(4, size - 20, 2)
        image[y : y + 14, x : x + 14] //= 4
        mask[y : y + 14, x : x + 14] = 1
    return image, mask


def write_squares(folder: Path, train: int = 24, val: int = 12, test: int = 12) -> Manifest:
    """A dataset folder of :func:`square_image` pictures, half of each split defective."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder) as writer:
        for split, count in (("train", train), ("val", val), ("test", test)):
            for i in range(count):
                image, mask = square_image(rng, defect=i % 2 == 1)
                name = f"{split}/{i:03d}.png"
                label = "defect" if i % 2 else "normal"
                writer.add(image, name, mask if i % 2 else None, label=label, split=split, group=name, source="made")
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A small dataset that a model learns in seconds; don't change it."""
    return write_squares(tmp_path_factory.mktemp("squares") / "data")


TRAIN_FLAGS = (
    "--backbone timm:test_efficientnet --weights none --image_size 64 --batch_size 8 --num_workers 0 --device cpu"
).split()


@pytest.fixture(scope="session")
def trained(squares: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The save_dir of a real run of two epochs on ``squares``."""
    import train_defect_model

    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["--data_root", squares.root, "--save_dir", folder, "--epochs", 2, *TRAIN_FLAGS]
    train_defect_model.main([str(a) for a in arguments])
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest model, untrained, for images of 32 pixels; its mask threshold marks some of each."""
    from dinov3.models.defect_backbone import build_backbone
    from dinov3.models.defect_checkpoint import save_checkpoint
    from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier

    torch.manual_seed(0)
    backbone = build_backbone("dinov3_vitt16", "none")
    model = AttentionGuidedDefectClassifier(backbone, backbone.embed_dim, decoder="multiscale")
    content = {
        "model": model.state_dict(),
        "config": {"dropout": 0.2, "decoder": "multiscale", "guidance": "mask"},
        "backbone": "dinov3_vitt16",
        "classes": ["normal", "defect"],
        "mask_classes": ["defect"],
        "image_size": 32,
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "thresholds": {"classification": 0.5, "mask": 0.0105},
    }
    path = tmp_path_factory.mktemp("tiny") / "tiny.pth"
    save_checkpoint(path, content)
    return path


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that others may enter, in memory where there is such a file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def magnetic_tile() -> Path:
    """The folder of the magnetic tile images."""
    folder = os.environ.get("MAGNETIC_TILE_DIR")
    if not folder or not (Path(folder, "MT_Free").is_dir() and Path(folder, "groups.csv").is_file()):
        pytest.skip("set MAGNETIC_TILE_DIR to the folder that holds MT_Free, MT_Break, ... and groups.csv")
    return Path(folder)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Folders bad/, masks/ and good/ as a user may have them."""
    from helpers import organizing  # it imports this module

    return organizing.write_parts(tmp_path)


@pytest.fixture
def organize(script, tmp_path: Path) -> Callable[..., tuple[Manifest, str]]:
    """Runs organize on ``parts``: -> manifest, what was printed."""
    from helpers import organizing

    return organizing.organizer(script, tmp_path)


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "how long MQTT broker and webhook are away in the test of that; a minute for the figures in RESULTS.md"
    parser.addoption("--seconds_away", type=float, default=0.0, help=help_text)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Everything is imported and nothing has run: the moment to fork what children of tests fork from."""
    if hasattr(os, "fork") and not session.config.option.collectonly:
        session.config.stash[LAUNCHER] = Launcher()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if launcher := session.config.stash.get(LAUNCHER, None):
        launcher.close()


@pytest.fixture(scope="session")
def launcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Starts scripts in processes of their own, where the system can fork."""
    if LAUNCHER not in request.config.stash:
        pytest.skip("processes cannot be forked on this system")
    launcher = request.config.stash[LAUNCHER]
    launcher.folder = tmp_path_factory.mktemp("logs")
    return launcher


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose runs leave pages and pictures that they don't look at."""
    draw_nothing(monkeypatch.setattr)
