"""What can be set for the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinov3.defect_cli import PositiveFloat, PositiveInt, flag
from dinov3.inference.config import DriftFlags, PredictorConfig
from dinov3.inference.parts import PartFlags


@dataclass(frozen=True, kw_only=True)
class ServeConfig(PredictorConfig, PartFlags, DriftFlags):
    """The flags of ``serve_defect_model.py``."""

    host: str = flag("127.0.0.1", "address to listen at; one that others reach needs --api_key_file", group="who")
    port: int = flag(8000, "0: any that is free, told in the log")
    api_key_file: Path | None = flag(None, "lines of NAME:KEY; who inspects must send one as X-API-Key")
    admin_key_file: Path | None = flag(None, "likewise, of those who may change the model")
    model_dir: Path | None = flag(None, "folder of the models to change to (default: that of --checkpoint)")

    queue_size: PositiveInt = flag(64, "images under way; clients with more are told to come again", group="limits")
    max_images: PositiveInt = flag(32, "images in one request")
    max_request_mb: PositiveFloat = flag(64.0, "size of a request in MB (1,000,000 bytes)")
    max_megapixels: PositiveFloat = flag(64.0, "size of an image in millions of pixels, checked before it is decoded")
    timeout: PositiveFloat = flag(30.0, "seconds for an answer, and for sending a request")

    mqtt: str | None = flag(None, "mqtt://HOST:PORT/TOPIC (mqtts: TLS) to publish each result to", group="sinks")
    mqtt_user: str | None = flag(None, "name for the broker")
    mqtt_password_file: Path | None = flag(None, "file with its password")
    mqtt_ca_file: Path | None = flag(None, "certificate of who signed the broker's (default: the system's)")
    webhook: str | None = flag(None, "http(s) address to post results to")
    webhook_token_file: Path | None = flag(None, "file with a token, sent as Authorization: Bearer")
    buffer_dir: Path = flag(Path("serving_buffer"), "folder for results that a sink has not taken yet")
    buffer_size: PositiveInt = flag(100_000, "results that may wait there; with more, images are refused")
    watch: Path | None = flag(None, "folder of camera images to inspect, too; results go to --store and the sinks")

    store: str | None = flag(
        None, "results database: an SQLite file, or postgresql://user:password@host/database", group="store"
    )
    store_days: PositiveFloat | None = flag(
        None, "days that results stay in --store if nobody decides them (default: all)"
    )
    store_mb: PositiveFloat | None = flag(
        None, "megabytes that --store and its images may grow to: the oldest undecided go then"
    )
    store_images: Path | None = flag(None, "folder for copies of uploads and masks, which people can review then")
    store_keep: Literal["all", "flagged"] = flag(
        "all", "flagged: copies of what is not plainly accepted alone, that is of review, reject and disagreement"
    )
    shifts: str = flag("6,14,22", "hours at which shifts begin, by this machine's clock, for the counts on the page")
    views_to_reject: PositiveInt | None = flag(
        None,
        "images of a part that must be rejected to reject it (default: as the model was calibrated, or 1)",
        group="parts",
    )
