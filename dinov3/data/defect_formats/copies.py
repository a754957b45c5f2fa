"""Images of a source that are one picture: several entries for one file, and files with the same bytes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dinov3.data.defect_formats.base import ImportReport, SourceImage

_ENDS = 2**16  # bytes at either end of a file that are compared first


def joined_entries(samples: Iterable[SourceImage], report: ImportReport) -> list[SourceImage]:
    """The images of a source, one each: the regions of several entries for one file are those of all of them.

    An entry without annotation takes nothing away from another. Entries that call one image by different names leave
    it to the regions, and without any the image is skipped.
    """
    by_file: dict[object, list[SourceImage]] = defaultdict(list)
    for sample in samples:
        by_file[sample.image].append(sample)
    joined = (_joined(entries, report) if len(entries) > 1 else entries[0] for entries in by_file.values())
    return [sample for sample in joined if sample]


def _joined(entries: Sequence[SourceImage], report: ImportReport) -> SourceImage | None:
    first = entries[0]
    annotated = [entry for entry in entries if entry.label is not None or entry.shapes is not None]
    listed = [entry.shapes for entry in annotated if entry.shapes is not None]
    shapes = tuple(shape for shapes in listed for shape in shapes) if listed else None
    marked = sum(bool(entry.shapes or entry.label is not None) for entry in entries)
    kind = "images with several entries; what is marked in any of them counts"
    report.remarks[kind].append(f"{first.place}: {len(entries)} entries, {marked} of them with annotations")
    labels = sorted({entry.label for entry in annotated if entry.label is not None})
    whole = all(entry.whole for entry in annotated)
    # The class of one entry and the regions of another are two opinions, and the regions can be seen.
    apart = any(entry.label is not None and not entry.shapes for entry in annotated) and any(listed)
    if len(labels) > 1 or apart:
        names = ", ".join(labels)
        if not shapes:
            report.skipped.append(f"{first.place}: called {names} in different entries: which is its class?")
            report.labels.update(labels)
            return None
        report.remarks["images called differently in several entries; their regions tell the class"].append(
            f"{first.place}: {names}"
        )
        labels = []
    splits = [entry.split for entry in entries if entry.split]
    if len(set(splits)) > 1:
        report.remarks["images in two splits; the first counts"].append(f"{first.place}: {', '.join(splits)}")
    label = labels[0] if labels else None
    return replace(first, label=label, shapes=shapes, whole=whole, split=splits[0] if splits else None)


def without_copies(
    samples: Sequence[SourceImage], report: ImportReport, verdict: Callable[[SourceImage], str]
) -> list[SourceImage]:
    """The images without those copies of a defective one, byte for byte, that nobody annotated or that are called
    normal: one picture cannot be both.

    Args:
        samples: as the source describes them.
        report: names the copies skipped.
        verdict: ``none``, ``normal``, ``defect`` or ``open`` for an image.
    """
    dropped: set[int] = set()
    for same in _same_files([(i, s.image) for i, s in enumerate(samples) if isinstance(s.image, Path)]):
        verdicts = {i: verdict(samples[i]) for i in same}
        source = next((i for kind in ("defect", "open") for i in same if verdicts[i] == kind), None)
        if source is None:
            continue
        kind = "files with the same content that are annotated in different ways; all are taken"
        ways = {_annotation(samples[i]): i for i in reversed(same) if verdicts[i] == "defect"}
        if len(ways) > 1:
            report.remarks[kind].append(" and ".join(samples[i].place for i in sorted(ways.values())))
        for i in same:
            if verdicts[i] == "none" or (verdicts[i] == "normal" and verdicts[source] == "defect"):
                dropped.add(i)
                what = "not annotated" if verdicts[i] == "none" else "called normal"
                kind = "copies of an image that is annotated as defective; skipped"
                report.remarks[kind].append(f"{samples[i].place}: {what}; the same file as {samples[source].place}")
    return [sample for i, sample in enumerate(samples) if i not in dropped]


def _annotation(sample: SourceImage) -> tuple[object, ...]:
    """What an annotation says, for comparisons."""
    shapes = sorted((shape.label, round(shape.area, 3)) for shape in sample.shapes or ())
    return sample.label, tuple(shapes), *(hash(path.read_bytes()) for path in sample.masks if path.is_file())


def _same_files(files: Sequence[tuple[int, Path]]) -> list[list[int]]:
    """Groups of files with the same bytes, in order; a file that cannot be read is like no other."""

    def size(path: Path) -> int:
        return path.stat().st_size

    def ends(path: Path) -> bytes:
        with path.open("rb") as file:
            first = file.read(_ENDS)
            file.seek(-min(_ENDS, path.stat().st_size), 2)
            return hashlib.blake2b(first + file.read(), digest_size=16).digest()

    def content(path: Path) -> bytes:
        found = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
        return found.digest()

    groups = [list(files)]
    for key in (size, ends, content):
        parts: list[list[tuple[int, Path]]] = []
        for group in groups:
            found: dict[object, list[tuple[int, Path]]] = defaultdict(list)
            for i, path in group:
                try:
                    found[key(path)].append((i, path))
                except OSError:
                    continue
            parts += [part for part in found.values() if len(part) > 1]
        groups = parts
    return [[i for i, _ in group] for group in groups]
