"""Inspect images with a trained model: verdicts, masks and pictures.

python examples/inference_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --image_dir data/test_images --output_dir results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path
from tqdm import tqdm

from dinov3.data.defect_images import list_images
from dinov3.defect_errors import DefectError, run_script
from dinov3.inference.defect_outputs import OutputWriter
from dinov3.inference.defect_predictor import DefectPredictor
from dinov3.train.defect_config import fraction, non_negative_int, positive_int


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 0 all inspected, 3 some files could not be read, 2 wrong usage, 1 any other problem",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help=".pth file from train_defect_model.py")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", type=Path, help="one image file")
    source.add_argument("--image_dir", type=Path, help="folder of images, searched with its subfolders")
    add("--output_dir", type=Path, default=Path("results"), help="where the results go")
    add("--batch_size", type=positive_int, default=16, help="images, or tiles of an image, at a time")
    add("--backbone", help="to make sure: must be the one the checkpoint was trained with")
    add("--dinov3_repo", type=Path, help="official checkout, if the model was trained on one")
    add(
        "--threshold",
        type=fraction,
        help="defect probability from which on to reject (default: the checkpoint's)",
    )
    add("--mask_threshold", type=fraction, help="mask probability from which on a pixel is defect (likewise)")
    add("--tile_size", type=non_negative_int, help="tiles of so many pixels, 0: none (default: as trained)")
    add("--tile_overlap", type=fraction, help="share of a tile's side that neighbours share (default: as trained)")
    add("--no_visualize", action="store_true", help="no pictures: faster")
    add("--num_workers", type=non_negative_int, default=2, help="processes that read images")
    add(
        "--mixed_precision",
        nargs="?",
        const="auto",
        choices=("auto", "bf16", "fp16", "off"),
        default="auto",
        help="auto: bf16 or fp16 on CUDA, off elsewhere",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect, and say what came out."""
    args = build_parser().parse_args(argv)
    root, paths = find_inputs(args)
    predictor = DefectPredictor.from_checkpoint(
        args.checkpoint,
        args.device,
        backbone=args.backbone,
        dinov3_repo=args.dinov3_repo,
        mixed_precision=args.mixed_precision,
        threshold=args.threshold,
        mask_threshold=args.mask_threshold,
        tile_size=args.tile_size,
        tile_overlap=args.tile_overlap,
    )
    with OutputWriter(args.output_dir, predictor.classes, visualize=not args.no_visualize) as writer:
        results = predictor.predict_files(
            paths, batch_size=args.batch_size, num_workers=args.num_workers, display=not args.no_visualize
        )
        for path, result, display in tqdm(results, total=len(paths), desc="inspect", unit="image"):
            writer.write(path.relative_to(root).as_posix(), result, display)
    counts = writer.counts
    print(f"{len(paths)} images: {counts['accept']} accept, {counts['reject']} reject, {counts['error']} not readable")
    print(
        f"results in {args.output_dir}: predictions.csv, predictions.json, masks/"
        + ("" if args.no_visualize else ", visualizations/")
    )
    if counts["error"]:
        print(f"the files that could not be read are in {args.output_dir / 'errors.csv'}")
    return 3 if counts["error"] else 0


def find_inputs(args: argparse.Namespace) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files."""
    if args.image is not None:
        if not args.image.is_file():
            raise DefectError(f"--image {args.image}: no such file")
        return args.image.parent, [args.image]
    output = args.output_dir.resolve()
    paths = [p for p in list_images(args.image_dir) if not p.absolute().is_relative_to(output)]
    if not paths:
        raise DefectError(f"--image_dir {args.image_dir}: no images in it; expected files such as .jpg or .png")
    return args.image_dir, paths


if __name__ == "__main__":
    run_script(main)
