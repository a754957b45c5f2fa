"""How many independent parts some images are evidence of: copies and near-duplicates are evidence of one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_prepare.derived_names import originals
from dinov3.data.defect_prepare.near_duplicates import CERTAIN, find_near_duplicates
from dinov3.data.defect_prepare.splits import merge_groups


@dataclass(frozen=True)
class Evidence:
    """Rows whose ``parts`` are independent, and the images that were joined to another one's part for that."""

    rows: Manifest
    joined: list[str]

    def __str__(self) -> str:
        """A note for whoever reads a rate or a promise; empty if there is nothing to say."""
        if not self.joined:
            return ""
        shown = ", ".join(self.joined[:2]) + (", ..." if len(self.joined) > 2 else "")
        return (
            f"note: {len(self.joined)} of {len(self.rows)} images are copies or near-duplicates of others ({shown}); "
            "in promises and intervals they count as one part with these"
        )


def independent_parts(rows: Manifest) -> Evidence:
    """Join the parts of images that are the same file or show the same.

    Where a row has no group, nobody has looked for that before: near-duplicates count as one part, and so do copies and
    tiles that names give away. Where it has one, only what is alike beyond doubt is joined. In a dataset that was made
    with ``--no-group_similar``, whose maker knows look-alikes to be different parts, only the same file is.
    """
    names = [name.removeprefix("images/") for name in rows.columns["image"].tolist()]
    pairs = find_near_duplicates([rows.root / name for name in rows.columns["image"].tolist()], names)
    free = rows.columns["group"] == ""
    by_name = [source if free[i] else None for i, source in enumerate(originals(names))]
    if _apart_by_wish(rows):
        pairs, by_name = [pair for pair in pairs if pair.score == 1], [None] * len(names)
    alike = [(pair.a, pair.b) for pair in pairs if pair.score >= CERTAIN or (free[pair.a] and free[pair.b])]
    groups = np.array(merge_groups(names, [rows.parts.tolist(), by_name], alike))
    first = {group: i for i, group in reversed(list(enumerate(groups.tolist())))}
    of_first = rows.parts[[first[group] for group in groups.tolist()]]
    joined = rows.columns["image"][of_first != rows.parts].tolist()
    return Evidence(replace(rows, columns=rows.columns | {"group": groups}), joined)


def _apart_by_wish(rows: Manifest) -> bool:
    info = json.loads((rows.root / "dataset.json").read_text(encoding="utf-8"))
    return "--no-group_similar" in str(info.get("command", "")).split()
