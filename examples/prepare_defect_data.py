"""Make a dataset folder: from your own images and masks (organize), from annotations in a public format (import), or
a made-up one to try things on (demo); and look for what is wrong with one (check, leaks).

python examples/prepare_defect_data.py demo --output_dir data/demo
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.data.defect_checks.facts import examine
from dinov3.data.defect_checks.repair import CHANGES, Change, fix_dataset
from dinov3.data.defect_checks.report import print_issues, write_html, write_json
from dinov3.data.defect_checks.row_checks import Issue, check_dataset, judge, missing_class
from dinov3.data.defect_formats.base import ImportOptions, ImportReport, SourceImage, resolve_labels
from dinov3.data.defect_formats.folders import scan_folders
from dinov3.data.defect_formats.registry import IMPORTERS
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_prepare.append import append
from dinov3.data.defect_prepare.grouping import Grouping
from dinov3.data.defect_prepare.leakage import find_leaks, write_leaks
from dinov3.data.defect_prepare.leakage_sheet import draw_leaks
from dinov3.data.defect_prepare.organize import organize
from dinov3.data.defect_synthesis.demo import write_demo
from dinov3.defect_cli import fraction, non_negative_int, positive_int
from dinov3.defect_errors import DefectError, run_script


def build_parser() -> argparse.ArgumentParser:
    """Flags of every command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output_dir", type=Path, required=True, help="dataset folder to write")
    common.add_argument("--seed", type=non_negative_int, default=42, help="of the split, and of the demo images")
    common.add_argument("--overwrite", action="store_true", help="replace the dataset in --output_dir")

    dealing = argparse.ArgumentParser(add_help=False, parents=[common])
    add = dealing.add_argument
    add("--val_split", type=fraction, help="share of images for validation (default: 0.2)")
    add("--test_split", type=fraction, help="share of images for the final test (default: 0)")
    add("--group_csv", type=Path, help="columns image,group: images of one part stay in one split")
    add("--group_regex", metavar="PATTERN", help="what it finds in a file name, or its brackets do, names the part")
    add(
        "--group_similar",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep near-duplicates in one split, such as one part under several exposures",
    )
    add("--link", action="store_true", help="make symbolic links instead of copies")

    own = commands.add_parser("organize", parents=[dealing], help="from folders of images and masks")
    add = own.add_argument
    add("--defect_images", type=Path, nargs="+", default=[], metavar="DIR", help="folders of defect images")
    add(
        "--defect_masks",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of their masks, same file stems",
    )
    add("--normal_images", type=Path, nargs="+", default=[], metavar="DIR", help="folders of good images")
    add(
        "--unlabeled_images",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of images with a mask (among --defect_masks) that nobody judged; they train the mask alone",
    )
    add("--classes_from_folders", action="store_true", help="one class per defect folder instead of 'defect'")
    add("--append", action="store_true", help="add to the dataset in --output_dir, whose rows and splits stay")
    add(
        "--check_data",
        action="store_true",
        help="check the result; without images, check the dataset in --output_dir",
    )

    other = commands.add_parser("import", parents=[dealing], help="from annotations in a public format")
    add = other.add_argument
    add("format", choices=sorted(IMPORTERS), help="how the source is laid out")
    add("source", type=Path, help="its folder, or its annotation file")
    add("--images", type=Path, metavar="DIR", help="where the images lie, if apart from the annotations")
    add("--map", type=renaming, nargs="+", default=[], metavar="OLD=NEW", help="other names for labels")
    add("--normal", nargs="+", default=[], metavar="LABEL", help="labels that mean a good part")
    add("--unannotated", choices=("skip", "normal"), default="skip", help="what to do with images without annotation")
    add("--splits", choices=("source", "new"), default="source", help="keep the source's own splits, or deal anew")
    add("--line_width", type=positive_int, default=3, help="of annotated lines and points, in pixels")

    check = commands.add_parser("check", help="what is wrong with a dataset; --fix repairs what is safe to repair")
    add = check.add_argument
    add("dataset", type=Path, metavar="DATASET", help="dataset folder; it is only read")
    add("--image_size", type=positive_int, default=512, help="of the training: which defects get too small?")
    add("--json", type=Path, metavar="FILE", help="write what was found as JSON")
    add("--html", type=Path, metavar="FILE", help="write a sheet with thumbnails, one file for any browser")
    add("--fix", action="store_true", help="write a repaired copy to --output_dir")
    add("--output_dir", type=Path, help="dataset folder to write with --fix")
    add("--overwrite", action="store_true", help="replace the dataset in --output_dir")

    leaks = commands.add_parser("leaks", help="images in different splits that show the same; exit status 1 if any")
    add = leaks.add_argument
    add("dataset", type=Path, metavar="DATASET", help="dataset folder; it is only read")
    add("--sheet", type=Path, metavar="FILE.png", help="draw the pairs most alike")
    add("--json", type=Path, metavar="FILE", help="write all pairs as JSON")

    demo = commands.add_parser("demo", parents=[common], help="procedural surfaces and defects")
    demo.add_argument("--num_images", type=positive_int, default=400, help="normal and defect images, half each")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = build_parser()
    args = parser.parse_args(argv)
    command = shlex.join(["prepare_defect_data.py", *(sys.argv[1:] if argv is None else argv)])
    if args.command == "check":
        if args.fix != (args.output_dir is not None):
            parser.error("check: --fix and --output_dir belong together: the repaired copy needs a folder of its own")
        return check_folder(args, command)
    if args.command == "leaks":
        return print_leaks(args)
    if args.command == "demo":
        manifest = write_demo(args.output_dir, args.num_images, args.seed, args.overwrite, command)
    elif args.command == "import":
        manifest = import_source(args, command)
    elif not (args.defect_images or args.normal_images) and args.check_data:
        return print_checks(read_manifest(args.output_dir))
    else:
        manifest = organize_folders(args, command)
    print_counts(manifest)
    return print_checks(manifest) if args.command == "organize" and args.check_data else 0


def renaming(text: str) -> tuple[str, str]:
    """The value of ``--map``."""
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        raise argparse.ArgumentTypeError(f"{text!r}; expected OLD=NEW")
    return old, new


def import_source(args: argparse.Namespace, command: str) -> Manifest:
    """Read annotations in a public format."""
    if not args.source.exists():
        raise DefectError(f"{args.source}: no such file or folder; give the {args.format} source")
    if args.images and not args.images.is_dir():
        raise DefectError(f"--images {args.images}: no such folder")
    report = ImportReport()
    options = ImportOptions(args.images, args.line_width, tuple(args.normal))
    samples = IMPORTERS[args.format](args.source, options, report)
    samples = resolve_labels(samples, report, mapping=dict(args.map), normal=args.normal, unannotated=args.unannotated)
    manifest = write_dataset(samples, report, args, command, own_splits=args.splits == "source")
    if args.splits == "source" and not (manifest.select("train").labels > 0).any():
        print(
            "note: no defects among the training images: the source is split for learning from good parts alone; to "
            "learn defects, import with --splits new"
        )
    return manifest


def organize_folders(args: argparse.Namespace, command: str) -> Manifest:
    """Read plain folders."""
    if args.append and args.overwrite:
        raise DefectError("--append and --overwrite: expected one of them, to add to a dataset or to replace it")
    for flag, folders in (("--defect_images", args.defect_images), ("--normal_images", args.normal_images)):
        if not folders and not args.append:
            raise DefectError(f"{flag} is missing: training needs normal and defect images")
    if not (args.defect_images or args.normal_images or args.unlabeled_images):
        raise DefectError("--append: no images to add; expected --defect_images or --normal_images")
    samples, report = scan_folders(
        args.defect_images, args.defect_masks, args.normal_images, args.classes_from_folders, args.unlabeled_images
    )
    return (
        append_images(samples, report, args, command) if args.append else write_dataset(samples, report, args, command)
    )


def append_images(samples: list[SourceImage], report: ImportReport, args: argparse.Namespace, command: str) -> Manifest:
    """Add what was found to a dataset, and report what had to be left out or repaired."""
    before = len(read_manifest(args.output_dir))
    manifest = append(
        samples,
        report,
        args.output_dir,
        val_split=args.val_split,
        test_split=args.test_split,
        grouping=Grouping(args.group_csv, args.group_regex, args.group_similar),
        link=args.link,
        command=command,
    )
    print_report(report)
    print(f"{len(manifest) - before} images added to {before}")
    return manifest


def write_dataset(
    samples: list[SourceImage], report: ImportReport, args: argparse.Namespace, command: str, own_splits: bool = True
) -> Manifest:
    """Write what was found, and report what had to be left out or repaired."""
    manifest = organize(
        samples,
        report,
        args.output_dir,
        val_split=0.2 if args.val_split is None else args.val_split,
        test_split=args.test_split or 0.0,
        seed=args.seed,
        own_splits=own_splits,
        grouping=Grouping(args.group_csv, args.group_regex, args.group_similar),
        link=args.link,
        overwrite=args.overwrite,
        command=command,
    )
    print_report(report)
    print(f"{len(set(manifest.columns['group'].tolist()))} parts in {len(manifest)} images")
    if args.group_csv is None and args.group_regex is None:
        apart = "that don't look alike " if args.group_similar else ""
        print(
            f"note: without --group_csv or --group_regex, photographs of one part {apart}can land in different splits, "
            "which inflates scores"
        )
    return manifest


def print_leaks(args: argparse.Namespace) -> int:
    """Look for images that show the same in different splits; 1 if there are any."""
    manifest = read_manifest(args.dataset)
    leaks = find_leaks(manifest)
    for leak in leaks[:10]:
        how = leak.kind if leak.score is None else f"{leak.kind} {leak.score:.2f}"
        print(f"{how}: {leak.image_a} ({leak.split_a}), {leak.image_b} ({leak.split_b})")
    if len(leaks) > 10:
        print(f"... and {len(leaks) - 10} more pairs" + ("" if args.json else " (--json FILE writes all of them)"))
    if args.json:
        write_leaks(args.json, leaks)
    if args.sheet and leaks:
        draw_leaks(leaks, args.sheet, manifest.root)
    images = {name for leak in leaks for name in (leak.image_a, leak.image_b)}
    pairs = f"{len(leaks)} pair{'s' * (len(leaks) > 1)} in different splits"
    found = f"{pairs}, {len(images)} images" if leaks else "no leaks"
    print(f"{manifest.root}: {len(manifest)} images, {found}")
    return int(bool(leaks))


def print_report(report: ImportReport) -> None:
    """How many there were of each kind, and the first of them."""
    for note in report.notes:
        print(f"note: {note}")
    kinds = {"skipped": report.skipped} if report.skipped else {}
    for kind, lines in (kinds | report.remarks).items():
        more = f" (first 3 of {len(lines)})" if len(lines) > 3 else ""
        print("\n    ".join([f"{len(lines)} x {kind}{more}:", *lines[:3]]))


def print_counts(manifest: Manifest) -> None:
    """A table of images per split and class."""
    print(f"{manifest.root}: {len(manifest)} images")
    width = max(map(len, manifest.classes))
    for split, counts in manifest.counts().items():
        print(f"  {split:<5}  " + "  ".join(f"{name:<{width}} {count:>5}" for name, count in counts.items()))
    for line in manifest.weak_labels():
        print(f"  {line}")
    for gap in missing_class(manifest):
        print(f"  no images of these: {', '.join(gap.examples)}")


def check_folder(args: argparse.Namespace, command: str) -> int:
    """Check a dataset and, if asked, write a repaired copy; 1 if there is an error in what is left."""
    manifest = read_manifest(args.dataset)
    facts = examine(manifest, args.image_size)
    issues = judge(manifest, facts, args.image_size)
    print_issues(manifest, issues)
    if args.json:
        write_json(args.json, issues)
    if args.html:
        write_html(args.html, manifest, issues)
    if args.fix:
        fixed, changes = fix_dataset(manifest, facts, args.output_dir, overwrite=args.overwrite, command=command)
        print_changes(fixed, changes)
        issues = check_dataset(fixed, args.image_size)
        print_issues(fixed, issues)
    return has_errors(issues)


def print_changes(manifest: Manifest, changes: list[Change]) -> None:
    """Each repair, up to a screenful; all are in the new dataset's list."""
    shown = 40
    for change in changes[:shown]:
        print(f"fixed: {change.check}: {change.file}: {change.change}")
    more = f", the first {shown} above" if len(changes) > shown else ""
    print(f"{manifest.root}: {len(manifest)} images, {len(changes)} changes{more} ({manifest.root / CHANGES})")


def print_checks(manifest: Manifest) -> int:
    """Print what the checks found; 1 if there is an error among it."""
    issues = check_dataset(manifest)
    print_issues(manifest, issues)
    return has_errors(issues)


def has_errors(issues: list[Issue]) -> int:
    """The exit status."""
    return int(any(issue.severity == "error" for issue in issues))


if __name__ == "__main__":
    run_script(main)
