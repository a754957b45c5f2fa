"""Train, val and test splits: stratified, and never one physical part on two sides."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from pathlib import Path, PurePath

from dinov3.defect_errors import DefectError


def read_groups(path: Path) -> dict[tuple[str, ...], str]:
    """A ``--group_csv`` file (columns ``image,group``) as {path parts: group}."""
    try:
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("gb18030")  # what Excel saves on a Chinese system
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        rows = list(reader)
        fields = reader.fieldnames or []
    except FileNotFoundError:
        raise DefectError(f"{path}: no such file (--group_csv)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DefectError(f"{path}: --group_csv cannot be read; expected a CSV file saved as UTF-8 ({error})") from None
    if "image" not in fields or "group" not in fields:
        raise DefectError(f"{path}: columns are {','.join(fields) or 'missing'}; --group_csv expects image,group")
    return {_parts(r["image"]): r["group"] for r in rows if r["image"] and r["group"]}


def _parts(text: str) -> tuple[str, ...]:
    """The parts of a path as written on any system, without drive and root."""
    return tuple(part for part in text.replace("\\", "/").split("/") if part not in ("", ".") and part[-1] != ":")


def find_group(image: PurePath, groups: dict[tuple[str, ...], str]) -> str | None:
    """The group whose CSV path is the longest end of ``image``'s path, or None."""
    parts = image.parts
    for start in range(len(parts)):
        if parts[start:] in groups:
            return groups[parts[start:]]
    return None


def grouped_split(strata: list[str], groups: list[str], fractions: dict[str, float], seed: int) -> list[str]:
    """Assign a split to every image.

    Images of one group get one split. Within each stratum (class, or defect type) groups are dealt, large ones
    first and else in an order drawn by hashing name and seed (the same on every machine), to the split that lacks
    most of its share, so that small types reach every split as far as they have groups enough.

    Args:
        strata: one name per image; a group with several belongs to its rarest.
        groups: one name per image.
        fractions: share of each split, adding up to 1.
        seed: any integer.

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

    assigned: dict[str, str] = {}
    for stratum in sorted(by_stratum):
        names = sorted(by_stratum[stratum], key=order)
        total = sum(len(members[name]) for name in names)
        lack = {split: fraction * total for split, fraction in fractions.items() if fraction > 0}
        for name in names:
            split = max(lack, key=lambda s: (lack[s] / fractions[s], fractions[s]))
            assigned[name] = split
            lack[split] -= len(members[name])
    return [assigned[group] for group in groups]
