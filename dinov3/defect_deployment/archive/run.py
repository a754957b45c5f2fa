"""A whole inspection of an archive: what is to be done, who does it, and how it goes on after a stop."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from dinov3.defect_deployment.archive.cluster import actors_of, connected
from dinov3.defect_deployment.archive.config import ArchiveConfig
from dinov3.defect_deployment.archive.inspector import Inspector, Work
from dinov3.defect_deployment.archive.places import Place
from dinov3.defect_deployment.archive.results import FOLDER, PLAN, Results
from dinov3.defect_errors import DefectError, StoppedError
from dinov3.defect_interrupts import TerminatedError
from dinov3.inference.resume import DECISIVE, changes_between

RUN = "archive.json"
KIND = "dinov3-archive-inspection"
FILES, MOST_IMAGES = 32, 1000  # files of results of a small archive; images in a file of a large one


def inspect_archive(config: ArchiveConfig) -> Counter[str]:
    """Inspect what is not inspected yet; how many images of the archive have each verdict, and ``error``.

    Raises:
        DefectError: a flag or a place cannot be used; what is done stays done.
        StoppedError: a signal came; likewise.
    """
    images, output = Place(config.image_dir, "--image_dir"), Place(config.output_dir, "--output_dir")
    content = {"checkpoint": _content(config.checkpoint, "--checkpoint")}
    if config.rules is not None:
        content["rules"] = _content(config.rules, "--rules")
    results = begin(config, images, output, describe(config, images, content))
    todo = results.unfinished(config.retry_errors)
    if todo:
        total = sum(map(len, results.files))
        done = total - sum(len(results.files[number]) for number in todo)
        if done:
            print(f"{done} images were inspected before; going on")
        with tqdm(total=total, initial=done, desc="inspect", unit="image") as progress:
            try:
                for row in inspect_files(Work(config, images, output, content), results, todo):
                    progress.update(row["images"])
            except KeyboardInterrupt as signal:
                number = 15 if isinstance(signal, TerminatedError) else 2
                raise StoppedError(
                    f"stopped after {progress.n} of {total} images; add --resume to the same command to go on", number
                ) from None
    return results.total()


def begin(config: ArchiveConfig, images: Place, output: Place, run: dict[str, Any]) -> Results:
    """Note what is to be done, behind what was done if that is to be gone on with.

    Raises:
        DefectError: there is nothing to inspect, or the place holds other results.
    """
    results = Results(output)
    before = _earlier(output)
    if before is not None and output.has(FOLDER):  # without it nothing was done yet
        if not config.resume:
            raise DefectError(
                f"--output_dir {output.text}: holds the inspection of an archive; add --resume to go on with it, or "
                "choose another folder"
            )
        if changes := changes_between(before, run):
            raise DefectError(
                f"--resume: the results in {output.text} are of another run: {changes}. Use what was used then, or "
                "choose another --output_dir"
            )
        results.load()
    names = images.image_names()
    if not names and not results.files:
        raise DefectError(f"--image_dir {images.text}: no images in it; expected files such as .jpg or .png")
    output.write(RUN, json.dumps(run, indent=1, ensure_ascii=False).encode())
    results.plan(names, config.images_per_file or images_per_file(len(names), config.batch_size))
    return results


def _earlier(output: Place) -> dict[str, Any] | None:
    """What an earlier run noted; None if there was none.

    Raises:
        DefectError: files of these names are of no such run.
    """
    found = [name for name in (RUN, PLAN, FOLDER) if output.has(name)]
    if not found:
        return None
    try:
        run = json.loads(output.read(RUN)) if RUN in found else None
    except ValueError:
        run = None
    if not isinstance(run, dict) or run.get("kind") != KIND:
        raise DefectError(
            f"--output_dir {output.text}: {', '.join(found)} there came from no inspection of an archive; choose "
            "another folder"
        )
    return run


def images_per_file(images: int, batch_size: int) -> int:
    """So many that each actor of a small cluster has several files, and a batch at least."""
    return max(batch_size, min(math.ceil(images / FILES), MOST_IMAGES))


def describe(config: ArchiveConfig, images: Place, content: dict[str, bytes]) -> dict[str, Any]:
    """What the results depend on, as ``archive.json`` has it; ``--checkpoint`` is the model's fingerprint."""
    digests = {name: hashlib.sha256(one).hexdigest() for name, one in content.items()}
    flags = {f"--{name}": getattr(config, name) for name in DECISIVE if hasattr(config, name)}
    return {
        "kind": KIND,
        "--checkpoint": digests["checkpoint"],
        "--image_dir": images.text if images.path is None else images.base,
        "--rules": digests.get("rules"),
        **flags,
    }


def inspect_files(work: Work, results: Results, todo: list[int]) -> Iterator[dict[str, Any]]:
    """Have the files done by the cluster's actors; a row for each as it comes.

    A file whose machine is lost is done by another one. Which images a file holds does not change with that, so none
    is lost or there twice.

    Raises:
        DefectError: an actor met a user's mistake.
    """
    config = work.config
    with connected(config, sum(map(len, work.content.values()))) as ray:
        machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
        files = [pa.table({"file": [n], "images": [results.files[n]]}) for n in todo]
        done = ray.data.from_arrow(files).map_batches(
            Inspector,
            fn_constructor_args=(ray.put(work),),
            batch_size=1,  # a row, which is a whole file
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors_of(config, len(files), machines)),
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor or None,
        )
        for row in done.iter_rows():
            if row["problem"]:
                raise DefectError(row["problem"])
            yield row


def _content(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DefectError(f"{flag} {path}: cannot be read ({error.strerror}); expected a file") from None
