"""Which images show one part: as a table says, as their names say, and as they look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dinov3.data.defect_prepare.derived_names import originals
from dinov3.data.defect_prepare.near_duplicates import ImageFile, find_near_duplicates
from dinov3.data.defect_prepare.splits import find_group, group_pattern, match_group, merge_groups, read_groups
from dinov3.defect_errors import DefectError

TOO_LARGE = (
    "very large groups, which leave few to assign; if one holds different parts that look alike, say which images show "
    "one part by --group_csv or --group_regex, with --no-group_similar"
)
TOO_MANY = "names as of tiles or copies of one photograph, too many for it (--group_csv or --group_regex if not)"
LARGE, SMALL = 0.2, 10  # a group of more than this share, and more images than that, is worth a remark


@dataclass(frozen=True)
class Grouping:
    """How to tell which images show one part; what is given works together.

    Attributes:
        csv: a table with the columns image,group.
        regex: a pattern of the part in an image's name below ``images/``.
        similar: keep near-duplicates together.
    """

    csv: Path | None = None
    regex: str | None = None
    similar: bool = True


def find_groups(
    names: Sequence[str],
    images: Sequence[ImageFile],
    grouping: Grouping,
    remarks: dict[str, list[str]],
    known: Sequence[str] = (),
) -> list[str]:
    """The group of each image; an image that nothing puts together with another is a group of its own name.

    Args:
        names: where each image goes below ``images/``.
        images: their files.
        grouping: what tells parts.
        remarks: collects, by kind, the images that table or pattern don't name, and groups that are very large.
        known: the groups of the first images, which are in the dataset already; a group takes over their names.

    Raises:
        DefectError: a table or pattern cannot be used, or says nothing on any new image.
    """
    old = len(known)
    labelings: list[list[str | None]] = [[*known, *[None] * (len(names) - old)]]
    if grouping.csv is not None:
        table = read_groups(grouping.csv)
        paths = [i.absolute() if isinstance(i, Path) else PurePosixPath(n) for i, n in zip(images, names, strict=True)]
        labelings.append([find_group(path, table) for path in paths])
        problem = f"{grouping.csv}: none of its images is among the {{}} given; paths are matched by their end"
        kind = f"images not in {grouping.csv}; each is its own group"
        _report_unknown(labelings[-1][old:], names[old:], problem, kind, remarks)
    if grouping.regex is not None:
        pattern = group_pattern(grouping.regex)
        labelings.append([match_group(name, pattern) for name in names])
        problem = f"--group_regex {grouping.regex!r}: in none of the {{}} names; first {''.join(names[old : old + 1])}"
        kind = f"images without {grouping.regex!r} in their name; each is its own group"
        _report_unknown(labelings[-1][old:], names[old:], problem, kind, remarks)
    labelings.append(_derived(names, remarks))
    similar = find_near_duplicates(images, names) if grouping.similar else []
    groups = merge_groups(names, labelings, [(pair.a, pair.b) for pair in similar if pair.b >= old])
    for group, count in Counter(groups).items():
        if count > max(LARGE * len(groups), SMALL):
            remarks[TOO_LARGE].append(f"{group}: {count} images")
    return groups


def _derived(names: Sequence[str], remarks: dict[str, list[str]]) -> list[str | None]:
    """The photographs that copies and tiles come from, but for one that would have too large a share of the images."""
    found = originals(names)
    counts = Counter(source for source in found if source is not None)
    large = {source for source, count in counts.items() if count > max(LARGE * len(names), SMALL)}
    if large:
        remarks[TOO_MANY] += [f"{source}: {counts[source]} images" for source in sorted(large)]
    return [None if source in large else source for source in found]


def groups_across(groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """The groups that are in more than one split."""
    where: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        where[group].add(split)
    return [group for group, found in where.items() if len(found) > 1]


def _report_unknown(
    labels: Sequence[str | None], names: Sequence[str], problem: str, kind: str, remarks: dict[str, list[str]]
) -> None:
    unknown = [name for name, label in zip(names, labels, strict=True) if label is None]
    if unknown and len(unknown) == len(names):
        raise DefectError(problem.format(len(names)))
    if unknown:
        remarks[kind] += unknown
