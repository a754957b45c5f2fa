"""Inspected images to choose from, out of a results database or of an inspection's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinov3.defect_errors import DefectError
from dinov3.defect_station.store.inspected import ERROR, Inspected, read_embedding
from dinov3.inference.claim import load_run
from dinov3.inference.parts import PartOf
from dinov3.inference.records import read_records

if TYPE_CHECKING:
    from dinov3.defect_station.store import Store


@dataclass(frozen=True, slots=True)
class Candidate:
    """An inspected image.

    Attributes:
        name: as the inspection has it.
        part: the physical part; its own name if not known.
        doubt: distance of the defect probability from the nearest threshold.
        novelty: deviations from good parts; None: the model cannot tell.
        decision: of a person: ``accept``, ``reject`` or empty.
        row: its ``id`` in the database; 0: it is from a folder.
        model: which inspected it, as the database has it.
        content_hash: SHA-256 of the image when it was inspected; empty: not known.
    """

    name: str
    image: Path
    mask: Path | None
    part: str
    verdict: str
    defect_probability: float
    doubt: float
    disagreement: bool
    novelty: float | None
    regions: list[dict[str, Any]]
    decision: str = ""
    class_name: str = ""
    row: int = 0
    model: str = ""
    content_hash: str = ""


def from_store(store: Store, part_of: PartOf | None = None, **filters: Any) -> list[Candidate]:
    """The images of a database, each file once as it was inspected last.

    Args:
        part_of: tells the part from the name, in place of what the database says.
        filters: as :meth:`Store.rows` has them.
    """
    found: dict[tuple[str, str], Candidate] = {}
    for row in store.rows(**filters):
        if row["verdict"] == ERROR or not row["image_path"]:
            continue
        decided = row["decision"] in ("accept", "reject")
        part = row["part"] if part_of is None else part_of(row["name"])
        found[row["name"], row["content_hash"]] = _candidate(
            row,
            name=row["name"],
            image=Path(row["image_path"]),
            mask=Path(row["mask_path"]) if row["mask_path"] else None,
            part=part or row["name"],
            doubt=row["doubt"],
            decision=row["decision"] if decided else "",
            class_name=(row["class_name"] if decided else "") or "",
            row=row["id"],
            model=row["model"],
            content_hash=row["content_hash"],
        )
    return list(found.values())


def from_results(folder: Path, part_of: PartOf | None = None) -> list[Candidate]:
    """The images of an inspection's ``--output_dir``.

    Raises:
        DefectError: it holds no inspection.
    """
    run, results = load_run(folder / "run.json"), folder / "predictions.json"
    if run is None or not results.is_file():
        raise DefectError(
            f"--results {folder}: no run.json and predictions.json of an inspection in it; give the --output_dir of "
            "inference_defect_model.py"
        )
    root = Path(run["--image_dir"] if run.get("--image_dir") else Path(run["--image"]).parent)
    found = []
    for record, _ in read_records(results):
        if record["error"]:
            continue
        limits = {"classification": record["threshold"], "review": record["review_threshold"]}
        image = Inspected.of_record(record, content_hash="", model="", thresholds=limits)
        name, novelty = record["image"], record["novelty"]
        found.append(
            _candidate(
                record | {"novelty": None if novelty is None else novelty["deviations"]},
                name=name,
                image=root / name,
                mask=folder / record["mask"] if record["mask"] else None,
                part=name if part_of is None else part_of(name),
                doubt=image.doubt,
            )
        )
    return found


def _candidate(said: Mapping[str, Any], **facts: Any) -> Candidate:
    same = "verdict defect_probability disagreement novelty regions".split()
    return Candidate(**{name: said[name] for name in same}, **facts)


def embeddings(store: Store, candidates: list[Candidate]) -> list[np.ndarray]:
    """For each model that described some of the images, (N, D) float32 of length 1, NaN for all others: what two models
    say cannot be compared."""
    found: dict[int, np.ndarray | None] = {}
    for ids in _pieces([candidate.row for candidate in candidates], 500):
        found |= {row["id"]: read_embedding(row) for row in store.rows(id=ids, embeddings=True)}
    spaces: dict[tuple[str, int], np.ndarray] = {}
    for place, candidate in enumerate(candidates):
        vector = found.get(candidate.row)
        if vector is not None and (length := np.linalg.norm(vector)) > 0:
            empty = np.full((len(candidates), len(vector)), np.nan, np.float32)
            spaces.setdefault((candidate.model, len(vector)), empty)[place] = vector / length
    return list(spaces.values())


def _pieces(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
