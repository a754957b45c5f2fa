"""Make a dataset folder: from your own images and masks (organize), from annotations in a public format (import), or
a made-up one to try things on (demo).

python examples/prepare_defect_data.py demo --output_dir data/demo
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.data.defect_checks import check_dataset, missing_class
from dinov3.data.defect_demo import write_demo
from dinov3.data.defect_folders import scan_folders
from dinov3.data.defect_importers import IMPORTERS
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_sources import ImportOptions, ImportReport, SourceImage, organize, resolve_labels
from dinov3.defect_errors import DefectError, run_script
from dinov3.train.defect_config import fraction, non_negative_int, positive_int


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
    add("--val_split", type=fraction, default=0.2, help="share of images for validation")
    add("--test_split", type=fraction, default=0.0, help="share of images for the final test")
    add("--group_csv", type=Path, help="columns image,group: images of one part stay in one split")
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

    demo = commands.add_parser("demo", parents=[common], help="procedural surfaces and defects")
    demo.add_argument("--num_images", type=positive_int, default=400, help="normal and defect images, half each")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    args = build_parser().parse_args(argv)
    command = shlex.join(["prepare_defect_data.py", *(sys.argv[1:] if argv is None else argv)])
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
    report = ImportReport()
    samples = IMPORTERS[args.format](args.source, ImportOptions(args.images, args.line_width), report)
    samples = resolve_labels(samples, report, mapping=dict(args.map), normal=args.normal, unannotated=args.unannotated)
    return write_dataset(samples, report, args, command, own_splits=args.splits == "source")


def organize_folders(args: argparse.Namespace, command: str) -> Manifest:
    """Read plain folders."""
    for flag, folders in (("--defect_images", args.defect_images), ("--normal_images", args.normal_images)):
        if not folders:
            raise DefectError(f"{flag} is missing: training needs normal and defect images")
    samples, report = scan_folders(
        args.defect_images, args.defect_masks, args.normal_images, args.classes_from_folders, args.unlabeled_images
    )
    return write_dataset(samples, report, args, command)


def write_dataset(
    samples: list[SourceImage], report: ImportReport, args: argparse.Namespace, command: str, own_splits: bool = True
) -> Manifest:
    """Write what was found, and report what had to be left out or repaired."""
    manifest = organize(
        samples,
        report,
        args.output_dir,
        val_split=args.val_split,
        test_split=args.test_split,
        seed=args.seed,
        own_splits=own_splits,
        group_csv=args.group_csv,
        link=args.link,
        overwrite=args.overwrite,
        command=command,
    )
    print_report(report)
    if args.group_csv is None:
        print("note: without --group_csv, photographs of one part can land in different splits, which inflates scores")
    return manifest


def print_report(report: ImportReport) -> None:
    """How many there were of each kind, and the first of them."""
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
    pairs = zip(manifest.labels, manifest.columns["mask"], strict=True)
    without = sum(1 for label, mask in pairs if label and not mask)
    if without:
        print(f"  {without} defect images without a mask: they will train the class alone")
    for gap in missing_class(manifest):
        print(f"  no images of these, too few parts to share out: {', '.join(gap.examples)}")


def print_checks(manifest: Manifest) -> int:
    """Print what the checks found; 1 if there is an error among it."""
    issues = check_dataset(manifest)
    for issue in issues:
        print(f"{issue.severity}: {issue.check}: {issue.count} (for example {', '.join(issue.examples)})")
    print(f"checked {len(manifest)} images: " + (f"{len(issues)} kinds of problems" if issues else "nothing found"))
    return int(any(issue.severity == "error" for issue in issues))


if __name__ == "__main__":
    run_script(main)
