"""prepare_defect_data.py demo: a made-up dataset."""

from __future__ import annotations

import numpy as np
from helpers.organizing import assert_refused, content, masks_by_image

from dinov3.data.defect_images import read_image
from dinov3.data.defect_manifest import read_manifest


def test_demo(tmp_path, script):
    flags = ["demo", "--num_images", 40, "--output_dir"]
    status, out, _ = script("prepare_defect_data", *flags, tmp_path / "a")
    assert status == 0
    assert "40 images" in out
    manifest = read_manifest(tmp_path / "a")
    assert sorted(manifest.columns["label"]) == ["defect"] * 20 + ["normal"] * 20
    assert all(min(counts.values()) > 0 for counts in manifest.counts().values())
    for image, mask in masks_by_image(manifest).items():
        assert read_image(manifest.root / image).shape == (320, 320, 3)
        assert mask is None or set(np.unique(mask)) == {0, 1}


def test_the_demo_is_made_by_its_seed(tmp_path, script):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        flags = ["--num_images", 30, "--seed", seed, "--output_dir", tmp_path / name]
        assert script("prepare_defect_data", "demo", *flags)[0] == 0
        counts = read_manifest(tmp_path / name).counts()
        assert all(min(split.values()) > 0 for split in counts.values())
    a, b, c = ({n: d for n, d in content(tmp_path / f).items() if n.endswith((".png", ".csv"))} for f in "abc")
    assert a == b
    assert not any(a[name] == c.get(name) for name in a if name.startswith("images/"))


def test_wrong_use_of_the_demo(tmp_path, script):
    output = ["--output_dir", tmp_path / "out"]
    assert_refused(
        script("prepare_defect_data", "demo", *output, "--num_images", 5), "--num_images 5: expected at least"
    )
    assert_refused(script("prepare_defect_data", "demo", *output, "--num_images", "x"), "--num_images", status=2)
    assert_refused(script("prepare_defect_data", "demo", *output, "--seed=-1"), "--seed", status=2)
    assert_refused(script("prepare_defect_data", "demo"), "--output_dir", status=2)
    assert_refused(script("prepare_defect_data"), "command", status=2)
    assert not (tmp_path / "out").exists()
