"""prepare_defect_data.py import labelme: which image each JSON file belongs to."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers.import_annotations import (
    HEIGHT,
    NAMES,
    SQUARE_PIXELS,
    WIDTH,
    base64_of,
    importer,
    labelme_set,
    labelme_shape,
    labels_by_image,
    mask_of,
    photo,
    write_labelme,
)
from PIL import Image

from dinov3.data.defect_formats.labelme import read_labelme


@pytest.fixture
def source(tmp_path):
    return labelme_set(tmp_path / "set")


@pytest.fixture
def run(script, tmp_path, source):
    do = importer(script, tmp_path / "out")
    return lambda *flags: do("labelme", source, *flags)


def test_embedded_images(run, source):
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for name, kind in (("e", "PNG"), ("f", "JPEG")):
        data = base64_of(pixels, kind)
        write_labelme(source / "sub" / f"{name}.json", labelme_shape(), imageData=data, image=f"C:\\tmp\\{name}.bmp")
    write_labelme(source / "a.json", labelme_shape(), imageData=base64_of(pixels))  # its file is preferred
    manifest, out = run("--link")
    labels = labels_by_image(manifest)
    assert labels["sub/e.png"] == labels["sub/f.jpg"] == "scratch"
    with Image.open(manifest.root / "images" / "sub" / "f.jpg") as image:
        assert image.format == "JPEG"
    np.testing.assert_array_equal(mask_of(manifest, "sub/e.png"), 1 * SQUARE_PIXELS)
    assert (manifest.root / "images" / "a.png").read_bytes() == (source / "a.png").read_bytes()
    assert sorted(os.listdir(manifest.root)) == ["dataset.json", "images", "manifest.csv", "masks"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("path", ["e.png", "C:\\old\\e.png"])
def test_an_embedded_image_is_not_mistaken_for_another_file_of_its_name(run, source, kind, path):
    other = photo(source / "good" / "e.png", 50)
    data = base64_of(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), kind)
    write_labelme(source / "defect" / "e.json", labelme_shape(), imageData=data, image=path)
    manifest, _ = run("--unannotated", "normal")
    labels = labels_by_image(manifest)
    assert (labels["good/e.png"], labels[f"defect/e.{'jpg' if kind == 'JPEG' else 'png'}"]) == ("normal", "scratch")
    assert (manifest.root / "images" / "good" / "e.png").read_bytes() == other.read_bytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_moved_file_is_known_by_its_embedded_copy(run, source, kind):
    """Else the file would be there a second time, as one that nobody annotated."""
    rows, columns = np.indices((200, 300), dtype=np.uint8)
    picture = np.stack([rows, columns, 128 + 0 * rows], axis=-1)
    (source / "images").mkdir()
    Image.fromarray(picture).save(source / "images" / "e.png")
    write_labelme(
        source / "labels" / "e.json",
        labelme_shape(),
        imageData=base64_of(picture, kind),
        image="C:\\old\\e.png",
        imageHeight=200,
        imageWidth=300,
    )
    labels = labels_by_image(run("--unannotated", "normal")[0])
    assert labels["images/e.png"] == "scratch" and len(labels) == 5


def test_embedded_images_are_read_one_by_one(source):
    """What an import keeps in memory does not grow with what the files embed."""
    import tracemalloc

    from dinov3.data.defect_formats.base import ImportOptions, ImportReport

    data = base64_of(np.random.default_rng(0).bytes(1_000_000))
    for number in range(20):
        write_labelme(source / f"e{number}.json", labelme_shape(), imageData=data)
    tracemalloc.start()
    samples = read_labelme(source, ImportOptions(), ImportReport())
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 24
    assert kept < 1_000_000


def test_broken_embedded_images_are_named(run, source):
    write_labelme(source / "e.json", labelme_shape(), imageData="abc")
    write_labelme(source / "f.json", labelme_shape(), imageData=base64_of(b"no image"))
    write_labelme(source / "g.json", labelme_shape(), imageData=[1, 2])
    manifest, out = run()
    assert len(manifest) == 4
    assert "e.png (embedded image): empty file" in out
    assert "f.png (embedded image): not an image" in out
    assert "g.png (embedded image): empty file" in out


@pytest.mark.parametrize("path", ["../images/e.png", "..\\images\\e.png", "D:\\line 1\\images\\e.png", "e.png"])
@pytest.mark.parametrize("apart", [False, True])
def test_images_in_another_folder(run, source, tmp_path, path, apart):
    folder = tmp_path / "images" if apart else source / "images"
    photo(folder / "e.png")
    write_labelme(source / "labels" / "renamed.json", labelme_shape(), image=path)
    manifest, out = run(*(["--images", folder] if apart else []))
    assert labels_by_image(manifest)["e.png" if apart else "images/e.png"] == "scratch"
    assert len(manifest) == 5


def test_an_image_of_another_folder_is_not_mistaken_for_a_missing_one(run, source):
    for day in ("1", "2"):
        photo(source / day / "001.png", int(day))
        write_labelme(source / day / "001.json", *([labelme_shape()] if day == "1" else []))
    (source / "1" / "001.png").unlink()
    manifest, out = run()
    assert labels_by_image(manifest)["2/001.png"] == "normal"
    assert f"{source / '1' / '001.json'}: its image is missing" in out


@pytest.mark.parametrize("claimed", [True, False])
def test_a_missing_image_is_not_taken_from_another_folder(run, source, claimed):
    """Neither one that another file names, nor any if the others of its folder are where they should be."""
    photo(source / "good" / "e.png", 50)
    write_labelme(source / "defect" / "e.json", labelme_shape())
    if claimed:
        write_labelme(source / "notes" / "e.json", image="../good/e.png")
    else:
        write_labelme(photo(source / "defect" / "f.png", 51).with_suffix(".json"), labelme_shape())
    manifest, out = run("--unannotated", "normal")
    assert labels_by_image(manifest).get("good/e.png") == ("normal" if claimed else None)  # unclaimed, it may be that
    assert f"{source / 'defect' / 'e.json'}: its image is missing; {source / 'good' / 'e.png'} has the name" in out


def test_a_renamed_pair_belongs_together(run, source):
    write_labelme(photo(source / "new.png").with_suffix(".json"), labelme_shape(), image="old.png")
    manifest, _ = run()
    assert labels_by_image(manifest)["new.png"] == "scratch"


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_accents_written_in_two_ways(run, source, one, other):
    photo(source / f"p{one}.png")
    write_labelme(source / f"p{other}.json", labelme_shape("dent"), image="lost.png")
    photo(source / "photos" / f"q{one}.png", 1)
    write_labelme(source / "q.json", labelme_shape("dent"), image=f"photos\\q{other}.png")
    found = labels_by_image(run()[0])
    assert (found[f"p{one}.png"], found[f"photos/q{one}.png"]) == ("dent", "dent")


def test_one_image_annotated_twice(run, source):
    """What is marked in either counts; a file that marks nothing takes nothing away."""
    corner = [[40, 5], [55, 5], [55, 20], [40, 20]]
    write_labelme(source / "z.json", labelme_shape("dent"), image="c.png")
    write_labelme(source / "y.json", labelme_shape("dent", corner), image="a.png")
    write_labelme(source / "x.json", image="b.png")
    manifest, out = run()
    assert labels_by_image(manifest) == {"a.png": "scratch", "b.png": "scratch", "c.png": "dent", "d.png": "normal"}
    assert set(np.unique(mask_of(manifest, "a.png"))) == {0, 1, 2}
    assert f"{source / 'a.png'}: 2 entries, 2 of them with annotations" in out


def test_a_file_that_is_called_like_another_image_than_it_names(run, source):
    """Copied files keep the imagePath of their original: neither image may count as clean for it."""
    write_labelme(photo(source / "e.png", 60).with_suffix(".json"), labelme_shape(), image="c.png")
    manifest, out = run("--unannotated", "normal")
    assert "e.png" not in labels_by_image(manifest)
    assert "its image is c.png by its imagePath, e.png by its own name: which?" in out


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_works(run, source, name):
    write_labelme(photo(source / name / f"{name}.png").with_suffix(".json"), labelme_shape(name[:9]))
    manifest, _ = run()
    assert labels_by_image(manifest)[f"{name}/{name}.png"] == name[:9]


def test_top_folders_called_like_splits_are_kept(script, tmp_path, source):
    for split in ("train", "valid", "Test"):
        labelme_set(tmp_path / "splits" / split)
    do = importer(script, tmp_path / "out")
    manifest, _ = do("labelme", tmp_path / "splits")
    assert {split: sum(counts.values()) for split, counts in manifest.counts().items()} == {
        "train": 4,
        "val": 4,
        "test": 4,
    }
    manifest, _ = do("labelme", tmp_path / "splits", "--splits", "new", "--overwrite")
    assert sum(manifest.counts()["test"].values()) == 0
    labelme_set(tmp_path / "splits" / "more")  # now they are folders like others
    manifest, _ = do("labelme", tmp_path / "splits", "--overwrite")
    assert sum(manifest.counts()["test"].values()) == 0


def test_one_file_is_a_source_too(script, tmp_path, source):
    do = importer(script, tmp_path / "out")
    manifest, _ = do("labelme", source / "a.json", "--unannotated", "normal")
    assert labels_by_image(manifest) == {"a.png": "scratch", "b.png": "normal", "c.png": "normal", "d.png": "normal"}
