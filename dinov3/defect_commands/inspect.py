"""Inspect images with a trained model: verdicts, masks and pictures.

python examples/inference_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --image_dir data/test_images --output_dir results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import cv2

from dinov3.defect_cli import make_parser, parse
from dinov3.defect_display import on_a_line
from dinov3.defect_errors import run_script
from dinov3.defect_evaluation.thresholds import VERDICTS, limit_text
from dinov3.defect_folders import FolderLock
from dinov3.defect_interrupts import StopSignals
from dinov3.defect_station.drift import Alarm, RecordsTest, alarm_text, open_monitor, told
from dinov3.inference.claim import expect_own_results
from dinov3.inference.config import InspectConfig
from dinov3.inference.inspection import Inputs, Inspection, find_inputs, open_predictor, open_writer
from dinov3.inference.outputs import OutputWriter, Sink
from dinov3.inference.parts import parts_note
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_facts import fingerprint

EXIT_STATUS = (
    "exit status: 0 all inspected (or --watch ended), 3 some files could not be read, 2 wrong usage, "
    "1 any other problem, 130 or 143 stopped by Ctrl-C or SIGTERM"
)


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(InspectConfig, __doc__, epilog=EXIT_STATUS)


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect, and say what came out."""
    parser = build_parser()
    config = parse(InspectConfig, parser, argv)
    if config.watch and config.image:
        parser.error("--watch needs --image_dir, not --image")
    if config.store is None and (config.store_days or config.store_mb):
        parser.error("--store_days and --store_mb need --store")
    inputs = find_inputs(config)
    expect_own_results(config.output_dir, not config.no_report)
    predictor = open_predictor(config)
    with FolderLock(config.output_dir, "inference_defect_model.py", "--output_dir"):
        return inspect(config, inputs, predictor)


def inspect(config: InspectConfig, inputs: Inputs, predictor: DefectPredictor) -> int:
    """Inspect the files, or what comes into the folder."""
    drift = open_drift(config, predictor)
    with open_sink(config, inputs, predictor) as sink:
        return inspect_into(config, inputs, predictor, sink, drift)


def open_drift(config: InspectConfig, predictor: DefectPredictor) -> RecordsTest | None:
    """The test for drift, if there is to be one."""
    if config.drift_reference is None:
        return None
    facts, part_of = predictor.engine.facts, config.part_of()
    models = {fingerprint(config.checkpoint), facts.fingerprint}
    monitor = open_monitor(config.drift_reference, config.false_alarm, part_of, models, facts.novelty)
    return RecordsTest(monitor, part_of, _print_alarm if config.watch else None)


def _print_alarm(alarm: Alarm) -> None:
    print(on_a_line(alarm_text(alarm)), flush=True)


def open_sink(config: InspectConfig, inputs: Inputs, predictor: DefectPredictor) -> AbstractContextManager[Sink | None]:
    """The results database, if there is to be one."""
    if config.store is None:
        return nullcontext()
    from dinov3.defect_station.store.sink import StoreSink  # needs the extra 'station'

    return StoreSink(config, predictor, inputs.root)


def inspect_into(
    config: InspectConfig, inputs: Inputs, predictor: DefectPredictor, sink: Sink | None, drift: RecordsTest | None
) -> int:
    """The same, with the results database open."""
    writer = open_writer(config, predictor, sink, drift)
    cv2.setNumThreads(1)  # images are finished side by side
    with StopSignals() as signals, writer:
        inspection = Inspection(config, inputs.root, predictor, writer, signals)
        inspection.run_watching() if config.watch else inspection.run(inputs.paths)
    print_summary(writer, predictor, config)
    if drift is not None:
        print("\n".join(told(drift.state(), config.drift_reference)))
    return 3 if writer.counts["error"] and not config.watch else 0


def print_summary(writer: OutputWriter, predictor: DefectPredictor, config: InspectConfig) -> None:
    """What came out, by which limits, and where it is."""
    counts, limits = writer.counts, predictor.thresholds
    print(
        f"{sum(counts.values())} images: {counts['accept']} accept, {counts['review']} review, "
        f"{counts['reject']} reject, {counts['error']} not readable; "
        f"mask and classifier disagree on {writer.disagreements}"
    )
    if writer.parts is not None:
        parts = writer.parts.verdicts()
        told = ", ".join(f"{parts[verdict]} {verdict}" for verdict in VERDICTS)
        print(f"{parts.total()} parts: {told} (parts.csv)")
    review = f", review from {limit_text(limits.review)}" if limits.review is not None else ""
    print(f"thresholds: reject from {limit_text(limits.classification)}{review}, mask from {limit_text(limits.mask)}")
    if predictor.calibration:
        facts = predictor.calibration
        print("calibration: " + "; ".join(str(facts[key]) for key in ("target", "promise") if facts.get(key)))
    if note := parts_note(config, config.views_to_reject, predictor.calibration):
        print(f"note: {note}")
    print(
        f"results in {config.output_dir}: predictions.csv, predictions.json, masks/"
        + ("" if config.no_visualize else ", visualizations/")
        + ("" if config.no_report else ", report.html")
    )
    if counts["error"]:
        print(f"the files that could not be read are in {config.output_dir / 'errors.csv'}")


def console() -> None:
    """The command ``defect-inspect``."""
    run_script(main)
