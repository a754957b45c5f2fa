"""Train, val and test splits: stratified, and never one physical part on two sides."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from dinov3.data.defect_files import one_spelling
from dinov3.defect_errors import DefectError
from dinov3.defect_text import decode_text, read_small, rows_of_table


def read_groups(path: Path, flag: str = "--group_csv") -> dict[tuple[str, ...], str]:
    """A ``--group_csv`` (or ``flag``) file (columns ``image,group``) as {path parts: group}.

    Raises:
        DefectError: missing, unreadable, of other columns, or one image is in two groups.
    """
    try:
        table = rows_of_table(decode_text(read_small(path)), skip_spaces=True)
        _, fields = next(table, (0, []))
        rows = [(line, dict(zip(fields, row, strict=False))) for line, row in table]
    except FileNotFoundError:
        raise DefectError(f"{path}: no such file ({flag})") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DefectError(f"{path}: {flag} cannot be read; expected a CSV file saved as UTF-8 ({reason})") from None
    if "image" not in fields or "group" not in fields:
        raise DefectError(f"{path}: columns are {','.join(fields)[:200] or 'missing'}; {flag} expects image,group")
    groups: dict[tuple[str, ...], str] = {}
    lines: dict[tuple[str, ...], int] = {}
    for line, row in rows:
        image, group = row.get("image"), row.get("group")
        if not image or not group:
            continue
        parts = _parts(image)
        if groups.setdefault(parts, group) != group:
            raise DefectError(
                f"{path}: {image} is in group {groups[parts]} (line {lines[parts]}) and in {group} (line {line}); "
                f"{flag} expects one group per image: correct one line, or, if these are images of one name in "
                "several folders, write more of their paths, such as folder/name.png"
            )
        lines.setdefault(parts, line)
    return groups


def _parts(text: str) -> tuple[str, ...]:
    """The parts of a path as written on any system, without drive and root."""
    text = one_spelling(text)
    return tuple(part for part in text.replace("\\", "/").split("/") if part not in ("", ".") and part[-1] != ":")


def find_group(image: PurePath, groups: dict[tuple[str, ...], str]) -> str | None:
    """The group whose CSV path is the longest end of ``image``'s path, or None."""
    parts = tuple(map(one_spelling, image.parts))
    for start in range(len(parts)):
        if parts[start:] in groups:
            return groups[parts[start:]]
    return None


def group_pattern(text: str, flag: str = "--group_regex") -> re.Pattern[str]:
    """The pattern of ``--group_regex`` (or ``flag``): what it finds, or what its one group holds, is the part.

    Raises:
        DefectError: it is no regular expression, has several groups, or would match anything.
    """
    try:
        pattern = re.compile(one_spelling(text))
    except re.error as error:
        raise DefectError(f"{flag} {text!r}: no regular expression ({error})") from None
    if pattern.groups > 1:
        raise DefectError(
            f"{flag} {text!r}: has {pattern.groups} groups; expected one pair of brackets around what names "
            "the part (other brackets start with ?:), or none"
        )
    if pattern.search(""):
        raise DefectError(f"{flag} {text!r}: matches an empty name; expected a pattern such as part([0-9]+)")
    return pattern


def match_group(name: str, pattern: re.Pattern[str]) -> str | None:
    """What ``pattern`` finds in a ``/``-separated name; None if nothing."""
    found = pattern.search(one_spelling(name))
    return found.group(pattern.groups) or None if found else None


def join(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of ``count`` items the lowest index among those that pairs join it to, directly or by way of others."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(i) for i in range(count)]


def merge_groups(
    names: Sequence[str], labelings: Sequence[Sequence[str | None]], pairs: Iterable[tuple[int, int]] = ()
) -> list[str]:
    """One group per image from several ways to tell parts: images that any of them puts together are together.

    Args:
        names: one per image.
        labelings: each a group or None per image.
        pairs: indices of images that belong together.

    Returns:
        The group of each: its first label in the first labeling that has one, else the first of its images' names.
    """
    joined = list(pairs)
    for labels in labelings:
        first: dict[str, int] = {}
        joined += [(first.setdefault(label, i), i) for i, label in enumerate(labels) if label is not None]
    titles: dict[int, tuple[int, str]] = {}
    roots = join(len(names), joined)
    for rank, labels in enumerate([*labelings, names]):
        for root, label in zip(roots, labels, strict=True):
            if label is not None:
                titles[root] = min(titles.get(root, (rank, label)), (rank, label))
    return [titles[root][1] for root in roots]


def grouped_split(
    strata: Sequence[str],
    groups: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    fixed: Mapping[str, str] | None = None,
) -> list[str]:
    """Assign a split to every image.

    Images of one group get one split. Within each stratum (class, or defect type) groups are assigned, large
    ones first and else in an order drawn by hashing name and seed (the same on every machine), to the split that lacks
    most of its share, so that small types reach every split as far as they have groups enough.

    Args:
        strata: one name per image; a group with several belongs to its rarest.
        groups: one name per image.
        fractions: share of each split, adding up to 1.
        seed: any integer.
        fixed: {group: split} of groups that have theirs already; the others fill up what these leave of each share.

    Returns:
        One split name per image.
    """
    frequency = Counter(strata)
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for group, indices in members.items():
        by_stratum[min((strata[i] for i in indices), key=lambda s: (frequency[s], s))].append(group)

    def order(group: str) -> tuple[int, bytes]:
        return -len(members[group]), hashlib.sha256(f"{seed}/{group}".encode()).digest()

    assigned = dict(fixed or {})
    for stratum in sorted(by_stratum):
        names = sorted(by_stratum[stratum], key=order)
        total = sum(len(members[name]) for name in names)
        lack = {split: fraction * total for split, fraction in fractions.items() if fraction > 0}
        for name in names:
            if name in assigned and assigned[name] in lack:
                lack[assigned[name]] -= len(members[name])
        for name in names:
            if name not in assigned:
                split = max(lack, key=lambda s: (lack[s] / fractions[s], fractions[s]))
                assigned[name] = split
                lack[split] -= len(members[name])
    return [assigned[group] for group in groups]
