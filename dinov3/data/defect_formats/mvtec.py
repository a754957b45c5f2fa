"""MVTec AD and datasets laid out alike: folders of types, and masks of the same names."""

from __future__ import annotations

from pathlib import Path

from dinov3.data.defect_files import list_images, spelled_as
from dinov3.data.defect_formats.base import (
    MASK_WITHOUT_IMAGE,
    NORMAL,
    WITHOUT_MASK,
    ImportOptions,
    ImportReport,
    SourceImage,
)
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.folders import GOOD_FOLDERS, folder_name, subfolders
from dinov3.data.defect_formats.pairing import masks_by_stem, masks_for
from dinov3.data.defect_formats.parsing import kept_splits

# Folder to split. MVTec AD has train and test; LOCO adds validation, AD 2 has test_public in place of test.
_SPLITS = {"train": "train", "validation": "val", "test": "test", "test_public": "test"}
_SECRET = ("test_private", "test_private_mixed")  # AD 2: the answers are with the benchmark's server


def read_mvtec(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """MVTec AD (Bergmann et al. 2019), LOCO (2022), AD 2 (2025), and datasets laid out alike such as BTAD.

    One category, or a folder of several: images in ``train/good`` and ``test/TYPE``, masks in ``ground_truth/TYPE``.
    The type is the label. LOCO's several masks per image become one.

    Raises:
        DefectError: no category there.
    """
    root = options.images or source
    categories = [folder for folder in [root, *subfolders(root)] if _is_category(folder)] if root.is_dir() else []
    if not categories:
        raise wrong_layout(root, "mvtec", "[CATEGORY/]train/good, test/TYPE and ground_truth/TYPE/NAME_mask.png")
    samples = []
    for folder in categories[:1] if categories[0] == root else categories:
        samples += _read_category(folder, source if folder == root else source / folder.name, report)
    return kept_splits(samples, report)


def _is_category(folder: Path) -> bool:
    return any(spelled_as(folder / split / good, folder) for split in _SPLITS for good in GOOD_FOLDERS)


def _read_category(folder: Path, truth: Path, report: ImportReport) -> list[SourceImage]:
    category = folder_name(folder)
    samples = []
    taken: set[Path] = set()
    for split_folder in filter(None, (spelled_as(folder / name, folder) for name in _SPLITS)):
        split = _SPLITS[split_folder.name.lower()]
        for kind in (path for path in subfolders(split_folder) if path.name.lower() != "ground_truth"):
            label = NORMAL if kind.name.lower() in GOOD_FOLDERS else kind.name
            places = ("ground_truth", f"ground_truth/{split_folder.name}", f"{split_folder.name}/ground_truth")
            masks = masks_by_stem([spelled_as(truth / place / kind.name, truth) for place in places])
            images = [path for path in list_images(kind) if path.parent == kind]
            masks_of = masks_for(images, masks)
            for path in images:
                name = f"{category}/{path.relative_to(folder).as_posix()}"
                own = masks_of.get(path, [])
                taken |= {path, *own}
                if not own and label != NORMAL:
                    report.remarks[WITHOUT_MASK].append(str(path))
                samples.append(SourceImage(path, name, category, label, tuple(own), split=split))
        for path in list_images(split_folder):
            if path not in taken and "ground_truth" not in map(str.lower, path.relative_to(split_folder).parts):
                report.skipped.append(f"{path}: expected right in a folder of its type, {split_folder}/TYPE")
    answers = spelled_as(truth / "ground_truth", truth)
    left = [path for path in list_images(answers) if path not in taken] if answers else []
    report.remark(MASK_WITHOUT_IMAGE, left)
    for secret in (folder / name for name in _SECRET if (folder / name).is_dir()):
        report.notes.append(f"{secret}: {len(list_images(secret))} images without a public verdict; skipped")
    return samples
