"""Inspect an archive of images, on this machine or on a cluster of Ray: verdicts as Parquet.

python examples/inspect_archive.py --checkpoint export/best_accuracy.onnx --image_dir s3://plant/2026-11 \
    --output_dir s3://plant/2026-11-verdicts
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from dinov3.defect_cli import make_parser, parse
from dinov3.defect_deployment.archive.config import ArchiveConfig
from dinov3.defect_errors import run_script
from dinov3.defect_folder_kinds import expect_no_dataset
from dinov3.defect_folders import FolderLock

EXIT_STATUS = (
    "exit status: 0 all inspected, 3 some images could not be read, 2 wrong usage, 1 any other problem, "
    "130 or 143 stopped by Ctrl-C or SIGTERM"
)


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(ArchiveConfig, __doc__, epilog=EXIT_STATUS)


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect, and say what came out."""
    parser = build_parser()
    config = parse(ArchiveConfig, parser, argv)
    if config.retry_errors and not config.resume:
        parser.error("--retry_errors needs --resume")
    from dinov3.defect_deployment.archive.run import inspect_archive  # needs the extra 'ray'

    on_disk = "://" not in config.output_dir
    if on_disk:
        expect_no_dataset(Path(config.output_dir), "--output_dir")
    with FolderLock(Path(config.output_dir), "inspect_archive.py", "--output_dir") if on_disk else nullcontext():
        counts = inspect_archive(config)
    print(
        f"{counts.total()} images: {counts['accept']} accept, {counts['review']} review, {counts['reject']} reject, "
        f"{counts['error']} not readable"
    )
    print(f"results in {config.output_dir.partition('?')[0]}: results/*.parquet, images.parquet, archive.json")
    return 3 if counts["error"] else 0


def console() -> None:
    """The command ``defect-archive``."""
    run_script(main)
