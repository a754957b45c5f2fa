"""prepare_defect_data.py import ksdd2."""

from __future__ import annotations

import pytest
from helpers.import_layouts import (
    assert_masks,
    importer,
    write_ksdd2,
)


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


def test_ksdd2(tmp_path, imported):
    manifest, _ = imported("ksdd2", write_ksdd2(tmp_path / "KolektorSDD2"))
    counts = manifest.counts()
    assert counts["test"] == {"normal": 4, "defect": 2}
    assert counts["train"]["defect"] + counts["val"]["defect"] == 4
    assert min(counts["val"].values()) >= 1
    assert_masks(manifest, lambda name: int(name[:-4]) % 50)


def test_ksdd2_images_without_a_usable_mask(tmp_path, imported):
    source = write_ksdd2(tmp_path / "KolektorSDD2")
    (source / "train" / "10000_GT.png").unlink()
    (source / "train" / "10050_GT.png").write_bytes(b"")
    (source / "train" / "10051.png").unlink()
    manifest, out = imported("ksdd2", source)
    assert len(manifest) == 15
    assert "10000.png: not annotated" in out
    assert "10050.png: its verdict is not known" in out
    assert "10051_GT.png" in out.partition("x masks that no image takes")[2]
    manifest, _ = imported("ksdd2", source, "--unannotated", "normal", "--unmatched", "skip", "--overwrite")
    assert len(manifest) == 16


def test_ksdd2_images_apart(tmp_path, imported):
    source = write_ksdd2(tmp_path / "KolektorSDD2")
    for path in source.rglob("*[0-9].png"):
        place = tmp_path / "photos" / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    manifest, _ = imported("ksdd2", source, "--images", tmp_path / "photos")
    assert_masks(manifest, lambda name: int(name[:-4]) % 50)
