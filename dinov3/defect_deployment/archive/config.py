"""What can be set for the inspection of an archive."""

from __future__ import annotations

from dataclasses import dataclass

from dinov3.defect_cli import NonNegativeFloat, PositiveInt, flag
from dinov3.inference.config import PredictorConfig


@dataclass(frozen=True, kw_only=True)
class ArchiveConfig(PredictorConfig):
    """The flags of ``inspect_archive.py``."""

    image_dir: str = flag(
        help="folder of images, or its address, such as s3://bucket/month; with all below it",
        group="what to inspect, and where to",
    )
    output_dir: str = flag(help="folder, or address of one, for the results; all machines must reach it")
    resume: bool = flag(False, "go on with a stopped inspection; needs the same flags and checkpoint")
    retry_errors: bool = flag(False, "with --resume: do files of results anew in which an image could not be read")
    images_per_file: PositiveInt | None = flag(
        None, "images in a file of results, done wholly or not at all (default: 1000, fewer in small archives)"
    )

    address: str | None = flag(
        None, "of a Ray cluster: HOST:PORT, or auto on one of its machines (default: this machine alone)", group="where"
    )
    actors: PositiveInt | None = flag(None, "processes that inspect (default: as many as there is room for)")
    cpus_per_actor: PositiveInt = flag(1, "cores for each")
    gpus_per_actor: NonNegativeFloat = flag(0.0, "GPUs for each; 0.5: two share one")
