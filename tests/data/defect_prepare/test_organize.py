"""prepare_defect_data.py organize: folders of all kinds in, a dataset folder out."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from helpers.organizing import arguments, assert_refused, mask_of, masks_by_image, picture, save
from PIL import Image

from dinov3.data.defect_formats.folders import folder_tags
from dinov3.data.defect_images import read_image
from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_masks import read_mask

# --- what a good run leaves


def test_a_dataset_is_written_whole(parts, organize):
    manifest, out = organize("--test_split", 0.2)
    assert manifest.classes == ["normal", "defect"]
    assert manifest.counts() == {
        "train": {"normal": 12, "defect": 6},
        "val": {"normal": 4, "defect": 2},
        "test": {"normal": 4, "defect": 2},
    }
    lines = (parts / "out" / "manifest.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,mask,label,split,group,source"
    assert len(lines) == 31
    info = json.loads((parts / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert info["format_version"] == 1
    assert (info["classes"], info["mask_classes"], info["seed"]) == (["normal", "defect"], ["defect"], 42)
    assert info["counts"] == manifest.counts()
    assert info["command"].startswith("prepare_defect_data.py organize --output_dir")
    for image, mask in masks_by_image(manifest).items():
        _, folder, name = image.split("/")
        assert (parts / "out" / image).read_bytes() == (parts / folder / name).read_bytes()
        if folder == "good":
            assert mask is None
        else:
            np.testing.assert_array_equal(mask, mask_of(int(name[:2])) // 255)
    with Image.open(parts / "out" / "masks" / "bad" / "00.png.png") as image:
        assert image.mode == "P"
    assert sorted(os.listdir(parts)) == ["bad", "good", "masks", "out"]
    assert re.search(r"train +normal +12 +defect +6", out)


def test_images_without_a_verdict_keep_their_mask(parts, organize):
    for i in (20, 21):
        save(parts / "unjudged" / f"{i}.png", picture(i))
    save(parts / "masks" / "20.png", mask_of(20))
    manifest, out = organize("--unlabeled_images", parts / "unjudged")
    masks = masks_by_image(manifest)
    row = manifest.columns["image"].tolist().index("images/unjudged/20.png")
    assert manifest.columns["label"][row] == "" and manifest.labels[row] == -1
    np.testing.assert_array_equal(masks["images/unjudged/20.png"], mask_of(20) // 255)
    assert "images/unjudged/21.png" not in masks and "21.png: neither verdict nor mask" in out
    assert "1 images with a mask but no verdict" in out


def test_the_seed_decides_the_split(parts, organize):
    first, _ = organize()
    again, _ = organize("--overwrite")
    assert first.columns["split"].tolist() == again.columns["split"].tolist()
    other, _ = organize("--overwrite", "--seed", 43)
    assert first.columns["split"].tolist() != other.columns["split"].tolist()
    assert first.counts() == other.counts()


def test_without_masks_all_defects_are_weakly_labelled_and_it_is_said(parts, organize):
    manifest, out = organize(masks="")
    assert not any(manifest.columns["mask"])
    assert "10 defect images without a mask" in out


def test_links_instead_of_copies(parts, organize):
    manifest, _ = organize("--link", "--check_data")
    image = parts / "out" / "images" / "bad" / "00.png"
    assert image.is_symlink()
    np.testing.assert_array_equal(read_image(image), picture(0))


def test_relative_paths(parts, script, monkeypatch):
    monkeypatch.chdir(parts / "good")
    flags = "--defect_images ../bad --defect_masks ../masks --normal_images . --output_dir ../out --link".split()
    assert script("prepare_defect_data", "organize", *flags)[0] == 0
    manifest = read_manifest(parts / "out")
    assert sum(bool(mask) for mask in manifest.columns["mask"]) == 10
    assert all((manifest.root / image).is_file() for image in manifest.columns["image"])


# --- groups


def test_images_of_one_part_stay_together(parts, organize):
    with (parts / "groups.csv").open("w", encoding="utf-8") as file:
        file.write("image,group\n")
        file.writelines(f"bad\\{i:02}.png,part {i // 2}\n" for i in range(10))
        file.writelines(f"C:\\photos\\good\\{i:02}.png,part {i // 4}\n" for i in range(20))
    # A drive and folders that are not here match nothing: only the end that the CSV gives is looked for.
    _, out = organize("--group_csv", parts / "groups.csv")
    assert "20 x images not in" in out
    text = (parts / "groups.csv").read_text(encoding="utf-8").replace("C:\\photos\\", "")
    (parts / "groups.csv").write_text(text, encoding="utf-8")
    manifest, out = organize("--group_csv", parts / "groups.csv", "--overwrite")
    assert "not in" not in out
    where = defaultdict(set)
    for group, split in zip(manifest.columns["group"], manifest.columns["split"], strict=True):
        where[str(group)].add(str(split))
    assert set(where) == {f"part {i}" for i in range(5)}
    assert all(len(splits) == 1 for splits in where.values())


def test_a_group_csv_of_other_images_is_refused(parts, script):
    (parts / "groups.csv").write_text("image,group\nelsewhere.png,1\n")
    result = script("prepare_defect_data", *arguments(parts, "--group_csv", parts / "groups.csv"))
    assert_refused(result, "none of its images is among the 30 given", "matched by their end")
    assert not (parts / "out").exists()


# --- names


@pytest.mark.parametrize(
    "name", ["with space", 'it\'s "quoted"', "划痕 01", "a,b;c", "100%", "x.y.z", "-dash", "new\nline", "back\\slash"]
)
def test_any_file_name_works(parts, organize, name):
    save(parts / "bad" / name / f"{name}.JPG", picture(50))
    save(parts / "masks" / f"{name}.PNG", mask_of(17))
    manifest, _ = organize("--check_data", "--link")
    np.testing.assert_array_equal(masks_by_image(manifest)[f"images/bad/{name}/{name}.JPG"], mask_of(17) // 255)


def test_folder_tags_tell_folders_apart():
    def tags(*folders: str) -> list[str]:
        return folder_tags([Path(folder) for folder in folders])

    assert tags("/d/MT_Break/Imgs", "/d/MT_Crack/Imgs", "/d/good") == ["MT_Break", "MT_Crack", "good"]
    assert tags("/d/bad") == ["bad"]
    assert len(set(tags("/d/test/good", "/d/train/good", "/d/test/scratch", "/d/train"))) == 4
    assert tags("/") == ["images"]


# --- classes


def test_classes_from_folders(parts, organize):
    for i in range(5):
        save(parts / "dent" / f"d{i}.png", picture(60 + i))
        save(parts / "masks" / f"d{i}.png", mask_of(10 + i))
    manifest, _ = organize("--classes_from_folders", "--test_split", 0.2, bad="bad dent")
    assert manifest.classes == ["normal", "bad", "dent"]
    assert manifest.mask_classes == ["bad", "dent"]
    assert manifest.counts()["train"] == {"normal": 12, "bad": 6, "dent": 3}
    for image, mask in masks_by_image(manifest).items():
        folder = image.split("/")[1]
        if folder != "good":
            assert set(np.unique(mask)) == {0, manifest.classes.index(folder)}


def test_classes_from_subfolders_reach_every_split(parts, organize):
    for i in range(8):
        save(parts / "types" / ("凹坑" if i % 2 else "scratch") / "deep" / f"{i}.png", picture(i))
    manifest, _ = organize("--classes_from_folders", "--test_split", 0.25, bad="types", masks="")
    assert manifest.classes == ["normal", "scratch", "凹坑"]
    assert all(min(counts.values()) >= 1 for counts in manifest.counts().values())


def test_too_few_images_to_share_out_are_named(parts, organize):
    for i in range(1, 10):
        (parts / "bad" / f"{i:02}.png").unlink()
    _, out = organize()
    assert "val: defect" in out


# --- EXIF


@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_masks_fit_photographs_that_exif_turns(parts, organize, drawn_on, orientation):
    upright = np.full((24, 40, 3), 200, np.uint8)
    upright[2:9, 3:20] = 20
    mask = (upright[..., 0] < 100).astype(np.uint8)
    turns = 1 if orientation == 6 else -1
    exif = Image.Exif()
    exif[274] = orientation
    save(parts / "bad" / "phone.jpg", np.rot90(upright, turns).copy(), exif=exif, quality=95)
    save(parts / "masks" / "phone.png", (mask if drawn_on == "upright" else np.rot90(mask, turns)).copy())
    manifest, out = organize("--check_data")
    image = read_image(manifest.root / "images" / "bad" / "phone.jpg")
    np.testing.assert_array_equal(image[..., 0] < 100, masks_by_image(manifest)["images/bad/phone.jpg"] == 1)
    assert ("turned upright with it" in out) == (drawn_on == "stored")


# --- broken and odd files among good ones


def test_one_broken_image_among_many_is_reported_and_the_rest_imported(parts, organize):
    (parts / "bad" / "04.png").write_bytes((parts / "bad" / "04.png").read_bytes()[:200])
    (parts / "good" / "05.png").write_text("not an image")
    (parts / "masks" / "06.png").write_bytes(b"")
    save(parts / "masks" / "07.png", mask_of(7)[:10])
    save(parts / "masks" / "08.png", mask_of(8).repeat(2, 0).repeat(2, 1))
    (parts / "good" / "notes.txt").touch()
    manifest, out = organize("--check_data")
    masks = masks_by_image(manifest)
    assert len(manifest) == 28
    assert "images/bad/04.png" not in masks
    assert not (manifest.root / "images" / "bad" / "04.png").exists()
    assert masks["images/bad/06.png"] is None
    assert masks["images/bad/07.png"] is None
    np.testing.assert_array_equal(masks["images/bad/08.png"], mask_of(8) // 255)
    assert "2 x skipped" in out
    assert "04.png: broken or truncated" in out
    assert "05.png: not an image" in out
    assert "06.png: empty file" in out
    assert "07.png: the mask is 32x10, its image 32x32" in out
    assert "08.png: 64x64, its image 32x32" in out
    assert "3 defect images without a mask" not in out
    assert "2 defect images without a mask" in out


@pytest.mark.parametrize(("folder", "name"), [("good", "normal"), ("bad", "defect")])
def test_a_class_with_broken_images_alone_is_refused(parts, script, folder, name):
    for path in (parts / folder).iterdir():
        path.write_text("not an image")
    result = script("prepare_defect_data", *arguments(parts))
    assert_refused(result, f"no usable image of class {name}", "skipped, first", f"{folder}/00.png")
    assert sorted(os.listdir(parts)) == ["bad", "good", "masks"]


# --- real images


def test_magnetic_tiles(magnetic_tile, tmp_path, script):
    types = ["MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven"]
    shared = " ".join(f"{name}/Imgs" for name in types)
    flags = arguments(magnetic_tile, bad=shared, masks=shared, good="MT_Free/Imgs")
    flags[2] = str(tmp_path / "out")
    status, out, _ = script(
        "prepare_defect_data", *flags, "--group_csv", magnetic_tile / "groups.csv", "--test_split", 0.2, "--check_data"
    )
    assert status == 0
    manifest = read_manifest(tmp_path / "out")
    assert len(manifest) == 1049
    assert (manifest.labels > 0).sum() == 292
    columns = manifest.columns
    assert set(zip(columns["source"], columns["split"], strict=True)) == {
        (source, split) for source in [*types, "MT_Free"] for split in ("train", "val", "test")
    }
    for split, fraction in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        counts = manifest.counts()[split]
        assert abs(counts["normal"] / 757 - fraction) < 0.03
        assert abs(counts["defect"] / 292 - fraction) < 0.03
    where = defaultdict(set)
    for group, split in zip(columns["group"], columns["split"], strict=True):
        where[group].add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert len(where) < 1049
    for row in np.flatnonzero(manifest.labels)[::10]:
        source = magnetic_tile / str(columns["image"][row]).removeprefix("images/").replace("/", "/Imgs/", 1)
        assert source.read_bytes() == (manifest.root / columns["image"][row]).read_bytes()
        with Image.open(source.with_suffix(".png")) as image:
            drawn = np.asarray(image.convert("L")) > 127
        np.testing.assert_array_equal(read_mask(manifest.root / columns["mask"][row]), drawn)
    empty = int(re.search(r"warning: empty_defect_mask: (\d+)", out).group(1))
    assert empty == sum(not mask.any() for mask in masks_by_image(manifest).values() if mask is not None) > 0
