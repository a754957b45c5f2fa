"""Small datasets in the layouts that import reads, written from the formats' published descriptions.

Every normal image is ``picture(100 + i)``, every defect image ``picture(i)`` with ``mask_of(i)`` as its mask.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers.organizing import SIZE, content, mask_of, masks_by_image, picture, save

from dinov3.data.defect_manifest import Manifest, read_manifest


def assert_masks(manifest: Manifest, number_of: Callable[[str], int] = lambda name: int(name[:-4])) -> None:
    """Every defect image has the mask that the generator gave it, in the value of its class."""
    masks = masks_by_image(manifest)
    for image, label in zip(manifest.columns["image"].tolist(), manifest.columns["label"].tolist(), strict=True):
        if label == "normal":
            assert masks[image] is None
        else:
            value = manifest.mask_classes.index(label) + 1
            np.testing.assert_array_equal(masks[image], mask_of(number_of(Path(image).name)) // 255 * value)


def write_mvtec(root: Path, categories: tuple[str, ...] = ("bottle",)) -> Path:
    """MVTec AD (mvtec.com/company/research/datasets/mvtec-ad): 6 normal images to train; 3, 2 x 4 defects to test."""
    for category in categories:
        place = root / category
        for i in range(9):
            save(place / ("train" if i < 6 else "test") / "good" / f"{i:03}.png", picture(100 + i))
        for i in range(8):
            kind = "broken_large" if i < 4 else "contamination"
            save(place / "test" / kind / f"{i:03}.png", picture(i))
            save(place / "ground_truth" / kind / f"{i:03}_mask.png", mask_of(i))
    return root


def write_loco(root: Path) -> Path:
    """MVTec LOCO AD: validation images too, and a folder of masks per image, here one for each of two areas."""
    for i in range(9):
        save(root / ("train", "validation", "test")[i // 3] / "good" / f"{i:03}.png", picture(100 + i))
    for i in range(8):
        kind = "logical_anomalies" if i < 4 else "structural_anomalies"
        save(root / "test" / kind / f"{i:03}.png", picture(i))
        save(root / "ground_truth" / kind / f"{i:03}" / "000.png", mask_of(i) // 255 * 201)
        save(root / "ground_truth" / kind / f"{i:03}" / "001.png", mask_of(i + 10) // 255 * 210)
    return root


def write_ad2(root: Path) -> Path:
    """MVTec AD 2: the masks of the public test images are among these, the other test images have no verdict."""
    for i in range(9):
        save(root / ("train", "validation", "test_public")[i // 3] / "good" / f"{i:03}_regular.png", picture(100 + i))
    for i in range(4):
        save(root / "test_public" / "bad" / f"{i:03}_regular.png", picture(i))
        save(root / "test_public" / "ground_truth" / "bad" / f"{i:03}_regular_mask.png", mask_of(i))
        save(root / "test_private" / f"{i:03}_regular.png", picture(200 + i))
        save(root / "test_private_mixed" / f"{i:03}_mixed.png", picture(300 + i))
    return root


def write_visa(root: Path, objects: tuple[str, ...] = ("candle", "pcb1")) -> Path:
    """VisA (github.com/amazon-science/spot-diff): 10 normal images and 5 defects per object; masks of small numbers."""
    tables: dict[str, list[str]] = {name: [] for name in ("1cls", "2cls_highshot", "2cls_fewshot")}
    for number, name in enumerate(objects):
        notes = ["image,label,mask"]
        for i in range(15):
            normal, which = i < 10, i if i < 10 else i - 10
            image = f"{name}/Data/Images/{'Normal' if normal else 'Anomaly'}/{which:03}.JPG"
            mask = "" if normal else f"{name}/Data/Masks/Anomaly/{which:03}.png"
            save(root / image, picture(100 + i if normal else which), quality=95)
            if mask:
                values = mask_of(which) // 255 * (1 + which % 3 + number)
                values[which] += values[which] > 0  # two types of flaws
                save(root / mask, values)
            label = "normal" if normal else "anomaly"
            notes.append(f"{image},{label if normal else 'chunk of wax missing'},{mask}")
            splits = {
                "1cls": normal and i < 8,
                "2cls_highshot": which < (6 if normal else 3),
                "2cls_fewshot": which < 2,
            }
            for table, train in splits.items():
                tables[table].append(f"{name},{'train' if train else 'test'},{label},{image},{mask}")
        (root / name / "image_anno.csv").write_text("\n".join(notes) + "\n")
    (root / "split_csv").mkdir()
    for table, lines in tables.items():
        (root / "split_csv" / f"{table}.csv").write_text("object,split,label,image,mask\n" + "\n".join(lines) + "\n")
    return root


def write_ksdd2(root: Path) -> Path:
    """KolektorSDD2 (vicos.si/resources/kolektorsdd2): a mask for every image, black if there is no defect."""
    for start, split, normal, defects in ((10000, "train", 8, range(4)), (20000, "test", 4, range(4, 6))):
        for i in range(normal):
            save(root / split / f"{start + i}.png", picture(100 + i))
            save(root / split / f"{start + i}_GT.png", np.zeros((SIZE, SIZE), np.uint8))
        for i in defects:
            save(root / split / f"{start + 50 + i}.png", picture(i))
            save(root / split / f"{start + 50 + i}_GT.png", mask_of(i))
    return root


SQUARE = "0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"


def outline(number: int) -> str:
    """The rectangle of :func:`mask_of` as YOLO writes it."""
    rows, columns = np.flatnonzero(mask_of(number).any(1)), np.flatnonzero(mask_of(number).any(0))
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return " ".join(f"{value / SIZE:.6f}" for value in (x0, y0, x1, y0, x1, y1, x0, y1))


def write_yolo(root: Path, roboflow: bool = False) -> Path:
    """Ultralytics' layout (docs.ultralytics.com/datasets/segment), or Roboflow's: 9 and 3 normal images, which have
    empty label files, 6 and 2 defects of two classes."""
    number = 0
    for split, normal, defects in (("train", 9, range(6)), ("val", 3, range(6, 8))):
        place = split.replace("val", "valid") if roboflow else split
        for kind, count in (("good", range(number, number + normal)), ("bad", defects)):
            for i in count:
                image = root / (f"{place}/images" if roboflow else f"images/{place}") / f"{kind}{i:02}.png"
                save(image, picture(i if kind == "bad" else 100 + i))
                labels = root / (f"{place}/labels" if roboflow else f"labels/{place}") / f"{kind}{i:02}.txt"
                labels.parent.mkdir(parents=True, exist_ok=True)
                labels.write_text(f"{i % 2} {outline(i)}\n" if kind == "bad" else "")
        number += normal
    if roboflow:
        text = (
            "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['scratch', 'dent']\n"
        )
    else:
        text = "path: .\ntrain: images/train\nval: images/val\ntest:\n\nnames:\n  0: scratch\n  1: dent\n"
    (root / "data.yaml").write_text(text)
    return root


def assert_yolo_masks(manifest: Manifest) -> None:
    """Every defect image has the mask of its number, in the value of its class; 20 images in all."""
    masks = masks_by_image(manifest)
    assert len(masks) == 20
    for image, label in zip(manifest.columns["image"].tolist(), manifest.columns["label"].tolist(), strict=True):
        name = Path(image).stem
        assert label == ("normal" if name.startswith("good") else ("scratch", "dent")[int(name[3:]) % 2])
        if label != "normal":
            value = manifest.mask_classes.index(label) + 1
            np.testing.assert_array_equal(masks[image], mask_of(int(name[3:])) // 255 * value)


def write_labels(source: Path, *lines: str, name: str = "bad00") -> Path:
    path = source / "labels" / "train" / f"{name}.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_folders(root: Path) -> Path:
    """One folder per class, the masks of one beside its images, those of the other apart."""
    for i in range(10):
        save(root / "good" / f"{i:02}.png", picture(100 + i))
    for i in range(5):
        save(root / "crack" / f"{i:02}.jpg", picture(i), quality=95)
        save(root / "crack" / f"{i:02}.png", mask_of(i))
        save(root / "dent" / f"{i + 5:02}.png", picture(i + 5))
        save(root / "masks" / "dent" / f"{i + 5:02}.png", mask_of(i + 5))
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "folders": write_folders,
    "ksdd2": write_ksdd2,
    "mvtec": write_mvtec,
    "visa": write_visa,
    "yolo": write_yolo,
}
SOME_NORMAL = {  # {format: pattern of normal images}
    "folders": "good/*",
    "ksdd2": "train/1000[0-7].png",
    "mvtec": "bottle/train/good/*",
    "visa": "candle/Data/Images/Normal/*",
    "yolo": "images/train/good*",
}

ODD_NAMES = ["with space", 'it\'s "quoted"', "划痕 01", "🔩 bolt", "a,b;c", "x.y.z", "C:\\parts\\01", "-dash", "images"]


def huge_png() -> bytes:
    """The start of a PNG file of 50,000 by 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(50_001) * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def importer(script: Callable[..., tuple[int, str, str]], root: Path) -> Callable[..., tuple[Manifest, str]]:
    """A function that imports ``source`` into root/out: -> manifest, what was printed. Nothing else may change."""

    def run(name: str, source: Path, *flags: object) -> tuple[Manifest, str]:
        before = {k: v for k, v in content(root).items() if not k.startswith("out/")}
        status, out, err = script("prepare_defect_data", "import", name, source, "--output_dir", root / "out", *flags)
        assert status == 0, err
        assert {k: v for k, v in content(root).items() if not k.startswith("out/")} == before
        return read_manifest(root / "out"), out

    return run
