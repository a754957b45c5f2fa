"""Which part, that is which physical workpiece, an image shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dinov3.data.defect_prepare.splits import find_group, group_pattern, match_group, read_groups
from dinov3.defect_cli import flag


@dataclass(frozen=True, kw_only=True)
class PartFlags:
    """How to tell which images show one part; the table comes first."""

    part_csv: Path | None = flag(None, "columns image,group: images of one group show one part")
    part_regex: str | None = flag(None, "finds the part in an image's name, such as 'cell([0-9]+)'")

    def part_of(self) -> PartOf:
        """
        Raises:
            DefectError: the table or the pattern cannot be used.
        """
        return PartOf(self)


class PartOf:
    """Called with an image's name, ``/``-separated, gives its part's: the image's own if nothing tells."""

    def __init__(self, flags: PartFlags):
        self.groups = {} if flags.part_csv is None else read_groups(flags.part_csv, "--part_csv")
        self.pattern = None if flags.part_regex is None else group_pattern(flags.part_regex, "--part_regex")

    def __call__(self, name: str) -> str:
        found = find_group(PurePosixPath(name), self.groups)
        if found is None and self.pattern is not None:
            found = match_group(name, self.pattern)
        return name if found is None else found
