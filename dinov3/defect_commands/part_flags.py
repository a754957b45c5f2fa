"""Parts in commands that judge a split of a dataset: which image shows which, and how many views reject one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.defect_cli import PositiveInt, flag
from dinov3.defect_evaluation.parts import expect_whole_parts
from dinov3.inference.parts import PartFlags


@dataclass(frozen=True, kw_only=True)
class SplitPartFlags(PartFlags):
    """Any of the three asks for verdicts on parts; which these are the dataset tells, unless a flag does."""

    views_to_reject: PositiveInt | None = flag(
        None, "judge parts: rejected if so many of their images are, accepted if all are", group="parts"
    )

    @property
    def wanted(self) -> bool:
        """Whether parts are to be judged."""
        return self.part_csv is not None or self.part_regex is not None or self.views_to_reject is not None

    def told(self, data_root: Path, split: str) -> dict[str, str] | None:
        """Image to part in a split, if flags tell the parts; None: the dataset does.

        Raises:
            DefectError: no such dataset, the flags cannot be used, or a part has images in another split too.
        """
        part_of = self.part_of()
        if part_of is None:
            return None
        rows = read_manifest(data_root)
        images = rows.columns["image"].tolist()
        parts = np.array([part_of(name.removeprefix("images/")) for name in images])
        here = rows.columns["split"] == split
        given = "--part_regex" if self.part_csv is None else "--part_csv"
        expect_whole_parts(given, split, parts[here], parts[~here])
        return dict(zip(images, parts.tolist(), strict=True))


def regrouped(rows: Manifest, told: dict[str, str] | None) -> Manifest:
    """``rows`` with the parts that flags tell."""
    if told is None:
        return rows
    parts = np.array([told[name] for name in rows.columns["image"].tolist()])
    return replace(rows, columns=rows.columns | {"group": parts})
