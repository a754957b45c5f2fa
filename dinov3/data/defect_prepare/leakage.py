"""Leaks: images in different splits that show the same part, so that a model is tested on what it has learnt."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_prepare.derived_names import originals
from dinov3.data.defect_prepare.near_duplicates import find_near_duplicates

# Pairs that fell short by a hair when the splits were made are no leaks when other images have joined them since.
MARGIN = 0.02


Kind = Literal["same file", "similar", "same photograph", "same group"]


@dataclass(frozen=True)
class Leak:
    """Two images in different splits: the same file, near-duplicates, copies or tiles of one photograph by their names,
    or merely of one group in the manifest.

    ``score`` is 1 for the same file and None where names or the group tell; names are those in the manifest.
    """

    kind: Kind
    image_a: str
    split_a: str
    image_b: str
    split_b: str
    score: float | None


def find_leaks(manifest: Manifest) -> list[Leak]:
    """Pairs that span splits, the most alike first. Of a part with many images not every pair is listed, but at least
    one for each of its images that has a look-alike, or fellow of its group, in another split."""
    images, splits = (manifest.columns[name].tolist() for name in ("image", "split"))
    leaks: dict[tuple[int, int], Leak] = {}

    def add(kind: Kind, a: int, b: int, score: float | None) -> None:
        leaks.setdefault((a, b), Leak(kind, images[a], splits[a], images[b], splits[b], score))

    for pair in find_near_duplicates([manifest.root / image for image in images], images, MARGIN):
        if splits[pair.a] != splits[pair.b]:
            add("same file" if pair.score == 1 else "similar", pair.a, pair.b, pair.score)
    for kind, labels in (("same photograph", originals(images)), ("same group", manifest.parts.tolist())):
        told = {i for pair in leaks for i in pair}
        members: dict[str, list[int]] = defaultdict(list)
        for i, label in enumerate(labels):
            if label is not None:
                members[label].append(i)
        for rows in members.values():
            first = {splits[i]: i for i in reversed(rows)}
            for i in rows:
                other = next((j for split, j in first.items() if split != splits[i]), None)
                if other is not None and i not in told:
                    add(kind, min(i, other), max(i, other), None)
    return sorted(leaks.values(), key=lambda leak: (-(leak.score or 0), leak.image_a, leak.image_b))


def write_leaks(path: Path, leaks: Sequence[Leak]) -> None:
    """Write all pairs as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"count": len(leaks), "leaks": [asdict(leak) for leak in leaks]}
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
