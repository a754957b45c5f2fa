"""Make a dataset folder: from your own images and masks (organize), from annotations in a public format (import), or
a made-up one to try things on (demo); and look for what is wrong with one (check, leaks).

python examples/prepare_defect_data.py demo --output_dir data/demo
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dinov3.data.defect_checks.row_checks import missing_class
from dinov3.data.defect_formats.base import ImportReport, SourceImage
from dinov3.data.defect_formats.folders import scan_folders
from dinov3.data.defect_formats.labels import resolve_labels
from dinov3.data.defect_formats.mask_rules import MaskRules, survey_masks
from dinov3.data.defect_formats.registry import IMPORTERS
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_prepare.append import append
from dinov3.data.defect_prepare.config import (
    CheckConfig,
    DemoConfig,
    ImportConfig,
    LeaksConfig,
    NewDataset,
    OrganizeConfig,
)
from dinov3.data.defect_prepare.organize import organize
from dinov3.data.defect_synthesis.demo import write_demo
from dinov3.defect_cli import add_flags, from_namespace
from dinov3.defect_commands.prepare_checks import check_folder, print_checks, print_leaks
from dinov3.defect_display import on_a_line
from dinov3.defect_errors import DefectError, run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (config_type, _) in COMMANDS.items():
        add_flags(commands.add_parser(name, help=config_type.__doc__), config_type)
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(size_last(words))
    config_type, run = COMMANDS[args.command]
    config = from_namespace(config_type, args)
    if isinstance(config, CheckConfig) and config.fix != (config.output_dir is not None):
        parser.error("check: --fix and --output_dir belong together: the repaired copy needs a folder of its own")
    return run(config, shlex.join(["prepare_defect_data.py", *words]))


def size_last(words: list[str]) -> list[str]:
    """A command's words with ``--image_size`` and its numbers at the end: else, of ``--image_size 320 DATASET``,
    argparse takes DATASET for a second number."""
    start = words.index("--image_size") if "--image_size" in words else len(words)
    end = start + 1
    while end < len(words) and words[end].isdecimal():
        end += 1
    return [*words[:start], *words[end:], *words[start:end]]


def import_source(config: ImportConfig, command: str) -> int:
    """Read annotations in a public format."""
    if not config.source.exists():
        raise DefectError(f"{config.source}: no such file or folder; give the {config.format} source")
    if config.images and not config.images.is_dir():
        raise DefectError(f"--images {config.images}: no such folder")
    if config.append and config.overwrite:
        raise DefectError("--append and --overwrite: expected one of them, to add to a dataset or to replace it")
    report = ImportReport()
    samples = IMPORTERS[config.format](config.source, config.options, report)
    rules = survey_masks([path for sample in samples for path in sample.masks], config.mask_rules)
    samples = resolve_labels(
        samples,
        report,
        mapping=dict(config.map),
        normal=config.normal,
        unannotated=config.unannotated,
        unmatched=config.unmatched,
        rules=rules,
    )
    if config.append:
        print_counts(append_images(samples, report, config, command, rules))
        return 0
    manifest = write_dataset(samples, report, config, command, rules, own_splits=config.splits == "source")
    if config.splits == "source" and not (manifest.select("train").labels > 0).any():
        print(
            "note: no defects among the training images: the source is split for learning from good parts alone; to "
            "learn defects, import with --splits new"
        )
    print_counts(manifest)
    return 0


def organize_folders(config: OrganizeConfig, command: str) -> int:
    """Read plain folders; without any, check the dataset that is there."""
    some = config.defect_images or config.normal_images or config.unlabeled_images
    if config.check_data and not some and not config.append:
        return check_existing(config.output_dir)
    if config.append and config.overwrite:
        raise DefectError("--append and --overwrite: expected one of them, to add to a dataset or to replace it")
    for flag_name, folders in (("--defect_images", config.defect_images), ("--normal_images", config.normal_images)):
        if not folders and not config.append:
            raise DefectError(f"{flag_name} is missing: training needs normal and defect images")
    if not some:
        raise DefectError("--append: no images to add; expected --defect_images or --normal_images")
    report = ImportReport()
    samples = scan_folders(
        config.defect_images,
        config.defect_masks,
        config.normal_images,
        report,
        unlabeled_images=config.unlabeled_images,
        classes_from_folders=config.classes_from_folders,
    )
    rules = survey_masks([path for sample in samples for path in sample.masks], config.mask_rules)
    samples = resolve_labels(samples, report, rules=rules)
    write = append_images if config.append else write_dataset
    manifest = write(samples, report, config, command, rules)
    print_counts(manifest)
    return print_checks(manifest) if config.check_data else 0


def check_existing(folder: Path) -> int:
    """The checks of ``organize --check_data`` alone."""
    if not (folder / "manifest.csv").is_file():
        raise DefectError(
            f"{folder}: no dataset to check; give its folder as --output_dir, or the images to make one of as "
            "--defect_images and --normal_images"
        )
    return print_checks(read_manifest(folder))


def append_images(
    samples: list[SourceImage],
    report: ImportReport,
    config: OrganizeConfig | ImportConfig,
    command: str,
    rules: MaskRules,
) -> Manifest:
    """Add what was found to a dataset, and report what had to be skipped or repaired."""
    before = len(read_manifest(config.output_dir))
    manifest = append(
        samples,
        report,
        config.output_dir,
        val_split=config.val_split,
        test_split=config.test_split,
        grouping=config.grouping,
        rules=rules,
        link=config.link,
        command=command,
    )
    print_report(report)
    print(f"{len(manifest) - before} images added to {before}")
    return manifest


def write_dataset(
    samples: list[SourceImage],
    report: ImportReport,
    config: NewDataset,
    command: str,
    rules: MaskRules,
    own_splits: bool = True,
) -> Manifest:
    """Write what was found, and report what had to be skipped or repaired."""
    manifest = organize(
        samples,
        report,
        config.output_dir,
        val_split=0.2 if config.val_split is None else config.val_split,
        test_split=config.test_split or 0.0,
        seed=config.seed,
        own_splits=own_splits,
        grouping=config.grouping,
        rules=rules,
        link=config.link,
        overwrite=config.overwrite,
        command=command,
    )
    print_report(report)
    print(f"{len(set(manifest.columns['group'].tolist()))} parts in {len(manifest)} images")
    if config.group_csv is None and config.group_regex is None:
        apart = "that don't look alike " if config.group_similar else ""
        print(
            f"note: without --group_csv or --group_regex, photographs of one part {apart}can land in different splits, "
            "which inflates scores"
        )
    return manifest


def print_report(report: ImportReport) -> None:
    """How many there were of each kind, and the first of them."""
    for note in report.notes:
        print(f"note: {note}")
    kinds = {"skipped": report.skipped} if report.skipped else {}
    for kind, lines in (kinds | report.remarks).items():
        more = f" (first 3 of {len(lines)})" if len(lines) > 3 else ""
        print("\n    ".join([f"{len(lines)} x {kind}{more}:", *map(on_a_line, lines[:3])]))


def print_counts(manifest: Manifest) -> None:
    """A table of images per split and class."""
    print(f"{manifest.root}: {len(manifest)} images")
    width = max(len(on_a_line(name)) for name in manifest.classes)
    for split, counts in manifest.counts().items():
        shown = "  ".join(f"{on_a_line(name):<{width}} {count:>5}" for name, count in counts.items())
        print(f"  {split:<5}  {shown}")
    for line in manifest.weak_labels():
        print(f"  {line}")
    for gap in missing_class(manifest):
        print(f"  no images of these: {on_a_line(', '.join(gap.examples))}")


def make_demo(config: DemoConfig, command: str) -> int:
    """Write a demo."""
    print_counts(write_demo(config.output_dir, config.num_images, config.seed, config.overwrite, command))
    return 0


COMMANDS: dict[str, tuple[type, Callable[..., int]]] = {
    "organize": (OrganizeConfig, organize_folders),
    "import": (ImportConfig, import_source),
    "check": (CheckConfig, check_folder),
    "leaks": (LeaksConfig, print_leaks),
    "demo": (DemoConfig, make_demo),
}


def console() -> None:
    """The command ``defect-prepare``."""
    run_script(main)
