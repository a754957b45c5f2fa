"""What ``examples/prepare_defect_data.py`` can be told: one configuration for each of its commands."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dinov3.data.defect_formats.base import ImportOptions
from dinov3.data.defect_formats.mask_rules import MaskRules, MaskValue, mask_value
from dinov3.data.defect_formats.registry import FormatName
from dinov3.data.defect_prepare.grouping import Grouping
from dinov3.defect_cli import Fraction, NonNegativeInt, PositiveInt, flag
from dinov3.defect_size_flag import SizeInPixels


def renaming(text: str) -> tuple[str, str]:
    """The value of ``--map``."""
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        raise argparse.ArgumentTypeError(f"{text!r}; expected OLD=NEW")
    return old, new


def background_value(text: str) -> MaskValue:
    """The value of ``--mask_background``."""
    try:
        return mask_value(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number such as 255, or a colour: #ffffff") from None


def ignored_value(text: str) -> MaskValue | tuple[()]:
    """The value of ``--mask_ignored``."""
    return () if text == "none" else background_value(text)


@dataclass(frozen=True, kw_only=True)
class NewDataset:
    """Where a dataset is written, and how its images are split."""

    output_dir: Path = flag(Path("data/dataset"), "dataset folder to write (default: data/dataset)")
    seed: NonNegativeInt = flag(42, "of the split")
    overwrite: bool = flag(False, "replace the dataset in --output_dir")
    val_split: Fraction | None = flag(None, "share of images for validation (default: 0.2)")
    test_split: Fraction | None = flag(None, "share of images for the final test (default: 0)")
    group_csv: Path | None = flag(None, "columns image,group: images of one part stay in one split")
    group_regex: str | None = flag(
        None, "what it finds in a file name, or its brackets do, names the part", metavar="PATTERN"
    )
    group_similar: bool = flag(True, "keep near-duplicates in one split, such as one part under several exposures")
    link: bool = flag(False, "make symbolic links instead of copies")
    mask_background: Annotated[MaskValue, background_value] | None = flag(
        None, "of mask files: a grey value or index, or a colour such as #ffffff (default: found out)", metavar="VALUE"
    )
    mask_ignored: Annotated[MaskValue | tuple[()], ignored_value] | None = flag(
        None, "the same of pixels that count for nothing, or none (default: 255 beside class indices)", metavar="VALUE"
    )
    mask_reading: Literal["auto", "values", "half"] = flag(
        "auto", "values: all but the background is defect; half: what is above half of 255; auto: by their looks"
    )

    @property
    def mask_rules(self) -> MaskRules:
        """How mask files are to be read."""
        return MaskRules(self.mask_background, self.mask_ignored, self.mask_reading)

    @property
    def grouping(self) -> Grouping:
        """What tells which images show one part."""
        return Grouping(self.group_csv, self.group_regex, self.group_similar)


@dataclass(frozen=True, kw_only=True)
class OrganizeConfig(NewDataset):
    """From folders of images and masks."""

    defect_images: tuple[Path, ...] = flag((), "folders of defect images", metavar="DIR")
    defect_masks: tuple[Path, ...] = flag((), "folders of their masks, same file stems", metavar="DIR")
    normal_images: tuple[Path, ...] = flag((), "folders of good images", metavar="DIR")
    unlabeled_images: tuple[Path, ...] = flag(
        (),
        "folders of images with a mask (among --defect_masks) that nobody judged; they train the mask alone",
        metavar="DIR",
    )
    classes_from_folders: bool = flag(False, "one class per defect folder instead of 'defect'")
    append: bool = flag(False, "add to the dataset in --output_dir, whose rows and splits stay")
    check_data: bool = flag(False, "check the result; without images, check the dataset in --output_dir")


@dataclass(frozen=True, kw_only=True)
class ImportConfig(NewDataset):
    """From annotations in a public format."""

    format: FormatName = flag(help="how the source is laid out", positional=True)
    source: Path = flag(help="its folder, or its annotation file", positional=True)
    images: Path | None = flag(None, "where the images lie, if apart from the annotations", metavar="DIR")
    map: tuple[Annotated[tuple[str, str], renaming], ...] = flag(
        (), "other names for labels; __ignore__ and __background__ are no classes", metavar="OLD=NEW"
    )
    normal: tuple[str, ...] = flag((), "labels that mean a good part", metavar="LABEL")
    unannotated: Literal["skip", "normal"] = flag("skip", "what to do with images without annotation")
    unmatched: Literal["stop", "skip"] = flag(
        "stop", "with --unannotated normal: what to do when annotations find no image"
    )
    flag_classes: tuple[str, ...] = flag((), "image flags (labelme) or tags (CVAT) that are classes", metavar="NAME")
    flag_notes: tuple[str, ...] = flag((), "image flags (labelme) that are notes, and no classes", metavar="NAME")
    splits: Literal["source", "new"] = flag("source", "keep the source's own splits, or assign new ones")
    line_width: PositiveInt = flag(3, "of annotated lines and points, in pixels")
    append: bool = flag(False, "add to the dataset in --output_dir, whose rows and splits stay")

    @property
    def options(self) -> ImportOptions:
        """What the reader of the format is told."""
        mapped = tuple(old for old, _ in self.map)
        return ImportOptions(self.images, self.line_width, self.normal, mapped, self.flag_classes, self.flag_notes)


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What is wrong with a dataset; --fix repairs what is safe to repair."""

    dataset: Path = flag(help="dataset folder; it is only read", positional=True, metavar="DATASET")
    image_size: SizeInPixels = flag(512, "of the training: which defects get too small?")
    json: Path | None = flag(None, "write what was found as JSON", metavar="FILE")
    html: Path | None = flag(None, "write a sheet with thumbnails, one file for any browser", metavar="FILE")
    fix: bool = flag(False, "write a repaired copy to --output_dir")
    output_dir: Path | None = flag(None, "dataset folder to write with --fix")
    overwrite: bool = flag(False, "replace the dataset in --output_dir")


@dataclass(frozen=True, kw_only=True)
class LeaksConfig:
    """Images in different splits that show the same; exit status 1 if there are any."""

    dataset: Path = flag(help="dataset folder; it is only read", positional=True, metavar="DATASET")
    sheet: Path | None = flag(None, "draw the pairs most alike", metavar="FILE.png")
    json: Path | None = flag(None, "write all pairs as JSON", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Made-up surfaces and defects, to try things on."""

    output_dir: Path = flag(help="dataset folder to write")
    seed: NonNegativeInt = flag(42, "of the images and their split")
    overwrite: bool = flag(False, "replace the dataset in --output_dir")
    num_images: PositiveInt = flag(400, "normal and defect images, half each")
