"""Inspect images with a trained model: verdicts, masks and pictures.

python examples/inference_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --image_dir data/test_images --output_dir results
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path
import cv2
import numpy as np
from tqdm import tqdm

from dinov3.data.defect_files import list_images
from dinov3.data.defect_images import ImageReadError
from dinov3.defect_cli import fraction, non_negative_int, positive_float, positive_int
from dinov3.defect_errors import DefectError, StoppedError, run_script
from dinov3.defect_evaluation.thresholds import limit_text
from dinov3.inference.outputs import Finished, OutputWriter
from dinov3.inference.pipeline import predict_files
from dinov3.inference.predictor import DefectPredictor, Prediction
from dinov3.inference.reports.inspection import ReportWriter
from dinov3.inference.resume import check_same_run, describe_run, start_run
from dinov3.inference.watch import FolderWatcher, watch
from dinov3.models.defect_device import add_device_flags
from dinov3.train.defect_signals import StopSignals


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 0 all inspected (or --watch ended), 3 some files could not be read, 2 wrong usage, "
        "1 any other problem, 130 or 143 stopped by Ctrl-C or SIGTERM",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help=".pth file from train_defect_model.py")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", type=Path, help="one image file")
    source.add_argument("--image_dir", type=Path, help="folder of images, searched with its subfolders")
    add("--output_dir", type=Path, default=Path("results"), help="where the results go")
    add("--resume", action="store_true", help="go on with a stopped inspection; needs the same flags and checkpoint")
    add("--watch", action="store_true", help="go on with what a camera writes into --image_dir, until Ctrl-C")
    add("--batch_size", type=positive_int, default=16, help="images, or tiles of an image, at a time")
    add("--backbone", help="to make sure: must be the one the checkpoint was trained with")
    add("--dinov3_repo", type=Path, help="official checkout, if the model was trained on one")
    add(
        "--threshold",
        type=fraction,
        help="defect probability from which on to reject (default: the checkpoint's)",
    )
    add("--mask_threshold", type=fraction, help="mask probability from which on a pixel is defect (likewise)")
    add("--rules", type=Path, help="YAML file of limits that defect regions must keep to")
    add("--mm_per_pixel", type=positive_float, help="size of a pixel: regions are measured in millimetres, too")
    add("--min_region_area", type=non_negative_int, default=0, help="pixels; smaller regions are left out (default 0)")
    add(
        "--on_disagreement",
        choices=("classifier", "review", "reject"),
        default="classifier",
        help="what becomes of an image that the classifier accepts while its mask shows a defect (default: accepted)",
    )
    add("--tile_size", type=non_negative_int, help="tiles of so many pixels, 0: none (default: as trained)")
    add("--tile_overlap", type=fraction, help="share of a tile's side that neighbours share (default: as trained)")
    add("--no_visualize", action="store_true", help="no pictures: faster")
    add("--no_report", action="store_true", help="no report.html")
    add("--num_workers", type=non_negative_int, default=2, help="processes that read images")
    add("--compile", action="store_true", help="compile the network first: worth it for thousands of images")
    add_device_flags(add)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect, and say what came out."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.watch and args.image:
        parser.error("--watch needs --image_dir, not --image")
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
        rules=args.rules,
        mm_per_pixel=args.mm_per_pixel,
        min_region_area=args.min_region_area,
        on_disagreement=args.on_disagreement,
        compile=args.compile,
    )
    run = describe_run(args)
    resume = args.resume and check_same_run(args.output_dir, run)
    if not resume:
        start_run(args.output_dir, run)
    cv2.setNumThreads(1)  # images are finished side by side
    writer = OutputWriter(
        args.output_dir,
        predictor.classes,
        visualize=not args.no_visualize,
        mm_per_pixel=args.mm_per_pixel,
        resume=resume,
    )
    if not args.no_report:
        writer.observer = ReportWriter(
            args.output_dir / "report.html",
            classes=predictor.classes,
            thresholds=predictor.thresholds,
            calibration=predictor.calibration,
            checkpoint=str(args.checkpoint),
            source=str(args.image or args.image_dir),
            panels=not args.no_visualize,
            done=(record for record, _ in writer.stored()) if resume else (),
        )
    with StopSignals() as signals, writer:
        inspection = Inspection(args, root, predictor, writer, signals)
        inspection.run_watching() if args.watch else inspection.run(paths)
    print_summary(writer, predictor, args)
    return 3 if writer.counts["error"] and not args.watch else 0


def find_inputs(args: argparse.Namespace) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files."""
    output = args.output_dir.resolve()
    replaced = [output / "masks", output / "visualizations"]
    if args.image is not None:
        if not args.image.is_file():
            raise DefectError(f"--image {args.image}: no such file")
        if any(args.image.resolve().is_relative_to(place) for place in replaced):
            raise DefectError(
                f"--image {args.image}: a mask or picture in --output_dir {args.output_dir}, where earlier results are "
                "replaced; choose another --output_dir"
            )
        return args.image.parent, [args.image]
    folder = args.image_dir.resolve()
    if folder == output or any(folder.is_relative_to(place) for place in replaced):
        raise DefectError(
            f"--output_dir {args.output_dir}: masks and pictures would lie among the images of --image_dir "
            f"{args.image_dir}; choose another folder, or one below it such as {args.image_dir / 'results'}"
        )
    if args.watch:
        if not args.image_dir.is_dir():
            raise DefectError(f"--image_dir {args.image_dir}: no such folder to watch; make it first")
        return args.image_dir, []
    paths = list_images(args.image_dir)
    if output.is_relative_to(folder):
        results = args.image_dir / output.relative_to(folder)  # spelled as the files are: with .. and through links
        paths = [p for p in paths if not p.is_relative_to(results)]
    if not paths:
        raise DefectError(f"--image_dir {args.image_dir}: no images in it; expected files such as .jpg or .png")
    return args.image_dir, paths


class Inspection:
    """One run of the script: what to inspect with, and where the results go."""

    def __init__(
        self,
        args: argparse.Namespace,
        root: Path,
        predictor: DefectPredictor,
        writer: OutputWriter,
        signals: StopSignals,
    ):
        self.args, self.root, self.predictor, self.writer, self.signals = args, root, predictor, writer, signals

    def run(self, paths: list[Path]) -> None:
        """Inspect files that are not done yet.

        Raises:
            StoppedError: a signal came first.
        """
        total, done, size = len(paths), self.writer.done, self.args.batch_size
        if done:
            # Whole batches of the whole list, so that each image has the same neighbours as in a run of one piece.
            batches = (paths[start : start + size] for start in range(0, total, size))
            paths = [p for batch in batches if any(self._name(p) not in done for p in batch) for p in batch]
            print(f"{len(done)} images were inspected before; going on")
        with closing(self._results(paths, self.args.num_workers)) as results:
            progress = tqdm(results, total=total, initial=total - len(paths), desc="inspect", unit="image")
            for _, image in progress:
                if image.record["image"] not in done:
                    self.writer.add(image)
                if self.signals.received:
                    break
        if self.signals.received:
            finished = sum(self.writer.counts.values())
            raise StoppedError(
                f"stopped after {finished} of {total} images; add --resume to the same command to go on",
                self.signals.received,
            )

    def run_watching(self) -> None:
        """Inspect what comes until a signal does."""
        watcher = FolderWatcher(self.root, done=self.writer.done, skip=self.args.output_dir)
        print(f"watching {self.root}; Ctrl-C ends", flush=True)
        for ready in watch(watcher, lambda: bool(self.signals.received)):
            # Starting processes takes longer than reading a few files.
            workers = self.args.num_workers if len(ready) > 4 * self.args.batch_size else 0
            with closing(self._results(ready, workers)) as results:
                for path, image in results:
                    if watcher.settle(path, readable=not image.record["error"]):
                        self.writer.add(image)
                        record = image.record
                        print(f"{record['image']}: {record['error'] or record['verdict']}", flush=True)
                    if self.signals.received:
                        break
            self.writer.flush()

    def _results(self, paths: list[Path], num_workers: int) -> Iterator[tuple[Path, Finished]]:
        def write(path: Path, result: Prediction | ImageReadError, display: np.ndarray | None) -> tuple[Path, Finished]:
            return path, self.writer.write_images(self._name(path), result, display)

        return predict_files(
            self.predictor,
            paths,
            write,
            batch_size=self.args.batch_size,
            num_workers=num_workers,
            display=self.writer.needs_display,
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def print_summary(writer: OutputWriter, predictor: DefectPredictor, args: argparse.Namespace) -> None:
    """What came out, by which limits, and where it is."""
    counts, limits = writer.counts, predictor.thresholds
    print(
        f"{sum(counts.values())} images: {counts['accept']} accept, {counts['review']} review, "
        f"{counts['reject']} reject, {counts['error']} not readable; "
        f"mask and classifier disagree on {writer.disagreements}"
    )
    review = f", review from {limit_text(limits.review)}" if limits.review is not None else ""
    print(f"thresholds: reject from {limit_text(limits.classification)}{review}, mask from {limit_text(limits.mask)}")
    if predictor.calibration:
        facts = predictor.calibration
        print("calibration: " + "; ".join(str(facts[key]) for key in ("target", "promise") if facts.get(key)))
    print(
        f"results in {args.output_dir}: predictions.csv, predictions.json, masks/"
        + ("" if args.no_visualize else ", visualizations/")
        + ("" if args.no_report else ", report.html")
    )
    if counts["error"]:
        print(f"the files that could not be read are in {args.output_dir / 'errors.csv'}")


if __name__ == "__main__":
    run_script(main)
