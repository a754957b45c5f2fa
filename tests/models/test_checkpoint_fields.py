"""A checkpoint is checked before it is believed: its bits, its weights, and every field that a verdict rests on."""

from __future__ import annotations

import copy
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.thresholds import Thresholds
from dinov3.inference import DefectPredictor
from dinov3.inference.regions import Region
from dinov3.inference.rules import Limit
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_field_checks import UNREACHABLE
from dinov3.models.defect_weights import load_weights


def changed(content: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A copy of a checkpoint's content with another value in one place, such as ``thresholds.mask``."""
    content = copy.deepcopy(content)
    place = content
    *tables, name = field.split(".", 1) if field.startswith("model.") else field.split(".")
    for table in tables:
        place = place[table]
    if value is KeyError:
        del place[name]
    else:
        place[name] = value
    return content


@pytest.fixture(scope="module")
def content(tiny: Path) -> dict[str, Any]:
    return torch.load(tiny, weights_only=True)


WRONG = [
    ("format_version", KeyError),
    ("format_version", 99),
    ("config", ["dropout"]),
    ("config.dropout", math.nan),
    ("config.guidance", "both"),
    ("config.score_fusion", "yes"),
    ("backbone", None),
    ("classes", ["normal"]),
    ("classes", ["normal", "normal"]),
    ("classes", "normal"),
    ("classes", ["normal", 3]),
    ("mask_classes", []),
    ("mask_classes", [f"kind {i}" for i in range(255)]),
    ("image_size", -32),
    ("image_size", 32.0),
    ("image_size", True),
    ("image_size", torch.tensor(32)),
    ("image_size", [32, 0]),
    ("image_size", [32, 32, 32]),
    ("tile_size", -1),
    ("tile_overlap", math.inf),
    ("normalization.mean", [0.5, 0.5]),
    ("normalization.std", [0.5, 0.0, 0.5]),
    ("normalization.std", [0.5, math.nan, 0.5]),
    ("thresholds.classification", KeyError),
    ("thresholds.classification", -0.1),
    ("thresholds.classification", 1.001),
    ("thresholds.classification", "0.5"),
    ("thresholds.mask", -math.inf),
    ("thresholds.review", 0.8),
    ("thresholds.temperature", 0.0),
    ("thresholds.temperature", math.nan),
    ("thresholds.temperature", math.inf),
    ("calibration", "best"),
    ("calibration", {"images": "many"}),
    ("calibration", {"target_values": {"max_miss_rate": "low"}}),
    ("calibration", {"promises": [{"rate_name": "miss rate"}]}),
    ("novelty", {"mean": torch.zeros(3)}),
    ("novelty", {"mean": torch.zeros(2), "whitening": torch.eye(2), "usual": torch.tensor([0.0, 0.0])}),
    ("novelty", {"mean": torch.zeros(2), "whitening": torch.eye(2) * math.nan, "usual": torch.tensor([0.0, 1.0])}),
    ("model", [1, 2]),
    ("model.classifier.4.bias", torch.zeros(2).to_sparse()),
    ("model.classifier.4.bias", torch.zeros(2, device="meta")),
    ("epoch", "last"),
    ("optimizer", 5),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{field}-{i}" for i, (field, _) in enumerate(WRONG)])
def test_a_field_that_no_training_writes_is_named(content: dict[str, Any], tmp_path: Path, field: str, value) -> None:
    fields = content | {"model": {"classifier.4.bias": torch.zeros(2)}}  # all others would only take time
    torch.save(changed(fields, field, value), tmp_path / "model.pth")
    named = field.split(".")[0].replace("_", "[ _]")
    with pytest.raises(DefectError, match=f"model.pth: .*{named}") as error:
        load_checkpoint(tmp_path / "model.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.classifier.4.bias", torch.tensor([math.nan, 0.0])),
        ("model.classifier.4.bias", torch.tensor([0.0, 1e300], dtype=torch.float64)),  # infinite as float32
        ("model.classifier.4.bias", torch.tensor([0, 1])),
        ("backbone", "dinov3_vith16plus"),  # 3 GiB, of which a file of 22 MB holds nothing
        ("backbone", "timm:no_such_network"),
    ],
)
def test_weights_that_are_no_weights_of_this_model(content: dict[str, Any], field: str, value) -> None:
    with pytest.raises(DefectError, match="classifier.4.bias|backbone"):
        restore_model(changed(content, field, value), "model.pth")


def test_large_finite_weights_are_no_mistake(content: dict[str, Any]) -> None:
    """Their sum overflows, they do not."""
    large = changed(content, "model.classifier.4.bias", torch.tensor([3e38, 3e38]))
    assert restore_model(large, "model.pth").classifier[4].bias.tolist() == pytest.approx([3e38, 3e38])


def test_each_record_has_its_checksum(tiny: Path, tmp_path: Path) -> None:
    """In the weights, where nothing else would tell, and in the table of fields."""
    whole, path = tiny.read_bytes(), tmp_path / "model.pth"
    records = sorted(zipfile.ZipFile(tiny).infolist(), key=lambda record: -record.file_size)
    rng = np.random.default_rng(1)
    for record in [*records[:6], next(r for r in records if r.filename.endswith("data.pkl"))]:
        data = bytearray(whole)
        header = 30 + sum(
            data[record.header_offset + at] + 256 * data[record.header_offset + at + 1] for at in (26, 28)
        )
        data[record.header_offset + header + int(rng.integers(record.file_size))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(DefectError, match="model.pth: .*(checksum|record)"):
            load_checkpoint(path)


def test_a_small_file_that_unpacks_to_a_large_one_is_not_unpacked(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(tiny) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in source.infolist():
            packed.writestr(record.filename, source.read(record))
    with pytest.raises(DefectError, match="compressed"):
        load_checkpoint(path)


def test_weights_files_are_compared_with_their_checksums_too(tmp_path: Path) -> None:
    network = build_backbone("dinov3_vitt16", "none")
    torch.save(network.network.state_dict(), tmp_path / "weights.pth")
    data = bytearray((tmp_path / "weights.pth").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(DefectError, match=r"weights\.pth.*damaged"):
        load_weights(network, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "limits", [(math.nan, 0.5), (0.5, math.nan), (0.5, 0.5, 0.6), (0.5, 0.5, None, -2.0), (1.1, 0.5)]
)
def test_limits_are_checked_wherever_they_come_from(limits: tuple, tiny: Path) -> None:
    with pytest.raises(DefectError, match="thresholds"):
        Thresholds(*limits)
    if len(limits) == 2:
        with pytest.raises(DefectError, match="thresholds"):
            DefectPredictor.from_checkpoint(tiny, "cpu", threshold=limits[0], mask_threshold=limits[1])


def test_what_is_not_a_number_is_never_accepted() -> None:
    assert Thresholds(UNREACHABLE, 0.5, 0.5).verdict(math.nan) == "reject"
    assert Thresholds(UNREACHABLE, 0.5).verdict(1.0) == "accept"  # as calibration sets it to lose no good part
    region = Region("defect", (0, 0, 2, 2), [(0, 0), (1, 0), (1, 1)], 4, 2.0, 2.0, 0.9, 0.9)
    assert Limit("max_area_mm2", 1e9, None).check([region], 100, math.nan)
