"""Weights files that cannot be read: each is named with its remedy, and no code in it runs."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def half_of(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("w.pth", b"", "empty"),
        ("w.safetensors", b"", "empty"),
        ("w.pth", b"\n<!DOCTYPE html><html>403 Forbidden</html>", "web page"),
        ("w.safetensors", b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
        (
            "w.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "git lfs pull",
        ),
        ("w.pth", b"some text", "damaged"),
        ("w.pth", bytes(range(7, 200)) * 9, "damaged"),
        ("w.safetensors", b"some longer text", "damaged"),
        ("w.index.json", b"{not json", "damaged"),
        ("w.index.json", b"{}", "weight_map"),
        ("w.index.json", b'{"weight_map": {}}', "weight_map"),
        ("w.index.json", b'{"weight_map": {"a": null}}', "weight_map"),
        ("w.index.json", b'{"weight_map": {"a": "/"}}', "weight_map"),
        ("w.pth", pickle.dumps(pickle.Unpickler), "more than tensors"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DefectError, match=expected) as caught:
        build_backbone("dinov3_vitt16", tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path, kind):
    network = build_backbone("dinov3_vitt16", "none").network
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(network.state_dict(), file)
    else:
        torch.save(network.state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
    half_of(file)
    with pytest.raises(DefectError, match="damaged, incomplete.* download it again"):
        build_backbone("dinov3_vitt16", file)


class _Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save", ["torch", "legacy", "pickle"])
def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path, save):
    marker, file = tmp_path / "ran", tmp_path / "w.pth"
    content = {"cls_token": torch.zeros(1), "other": _Hostile(marker)}
    if save == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=save == "torch")
    with pytest.raises(DefectError, match="was refused: it holds more than tensors"):
        build_backbone("dinov3_vitt16", file)
    assert not marker.exists()
    torch.load(file, weights_only=False) if save != "pickle" else pickle.loads(file.read_bytes())
    assert marker.exists()  # the file would have worked


def test_paths_that_do_not_lead_to_a_file(tmp_path):
    with pytest.raises(DefectError, match="not found: .*nothing.pth. Pass an existing file, 'default' or 'none'"):
        build_backbone("dinov3_vitt16", tmp_path / "nothing.pth")
    with pytest.raises(DefectError, match="exactly one weights file .* found: none"):
        build_backbone("dinov3_vitt16", tmp_path)
    for name in ("a.pth", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(DefectError, match="found: a.pth, b.safetensors"):
        build_backbone("dinov3_vitt16", tmp_path)


def test_a_lone_tensor_is_no_set_of_weights(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(DefectError, match="holds a Tensor, expected a dict"):
        build_backbone("dinov3_vitt16", tmp_path / "w.pth")
