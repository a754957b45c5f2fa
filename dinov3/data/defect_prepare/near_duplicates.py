"""Near-duplicates: photographs of one part, found by structure, whatever the exposure.

Phase correlation (Kuglin and Hines 1975): of a small grey thumbnail only the Fourier phases are kept. They say where
edges and texture lie; brightness and contrast are in the magnitudes, which are dropped. Surfaces that merely look
alike have unrelated phases and score near 0, so a set of plain metal doesn't flow together into one group.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from dinov3.data.defect_images import FORMATS, to_rgb
from dinov3.data.defect_prepare.splits import join

SIDE = 64  # of the thumbnail; the Fourier coefficients kept make 2 to FINE cycles along it
FINE, COARSE = 16, 8  # the coarse ones alone are searched, which a shift of a few percent leaves alike
SURROUNDINGS = 17  # thumbnail pixels
MAX_SHIFT = 4  # thumbnail pixels: 6% of the image
NEIGHBORS = 16  # looked up per image; of more near-duplicates than that each still finds some, which joins them all
IN_ORDER = 5  # images so many places apart in capture order count as taken in a row, as in a series of six exposures
CROWD = 30  # images; a larger group is looked at again, as a folder of its own
CHAIN, CHAIN_FROM = 0.2, 10  # share of all images, and images, from which on a group may be a chain of different parts
EXACT_BELOW = 10_000  # images; more go through an HNSW graph (Malkov and Yashunin 2018)

# Measured on 1,049 magnetic tiles (benchmarks/RESULTS.md): of 546,910 pairs of different tiles none has more than 0.23,
# and 0.14 in a row; half of the near-duplicates have more than 0.77, 99% more than 0.38. Made-up parts in one holder
# reach 0.44.
SAME, SAME_IN_A_ROW = 0.45, 0.3
CERTAIN = 0.95  # the same, even where everything is much alike: frames of a resting scene

_y, _x = np.meshgrid(np.fft.fftfreq(SIDE, 1 / SIDE), np.arange(SIDE // 2 + 1), indexing="ij")
_radius = np.hypot(_y, _x)
_kept = (_radius >= 2) & (_radius <= FINE) & ((_x > 0) | (_y > 0))
_coarse = np.tile(_radius[_kept] <= COARSE, 2)
_window = np.outer(np.hanning(SIDE + 2), np.hanning(SIDE + 2))[1:-1, 1:-1]
_shifts = np.stack(np.meshgrid(*[np.arange(-MAX_SHIFT, MAX_SHIFT + 1)] * 2), -1).reshape(-1, 2)
_turns = 2 * np.pi / SIDE * (np.stack([_y[_kept], _x[_kept]], 1) @ _shifts.T)  # what each shift does to each phase
_ramps = np.concatenate([np.cos(_turns), np.sin(_turns)]).astype(np.float32)  # (2K, shifts)

ImageFile = Path | Callable[[], bytes]


@dataclass(frozen=True)
class NearDuplicates:
    """Two images, by index (a < b), that show the same; score 1 is the same file, 0 no more alike than any two."""

    a: int
    b: int
    score: float


def find_near_duplicates(
    images: Sequence[ImageFile], names: Sequence[str] | None = None, margin: float = 0.0
) -> list[NearDuplicates]:
    """Pairs of images that show the same part, or are the same file; in groups of many not every pair is listed.

    Scores are phase correlations, rescaled in each folder so that 0 is what two of its images usually have: a part
    holder in every picture makes no near-duplicates. Images taken in a row, by the numbers in their names, need less.
    An image that cannot be read is like no other. The same images give the same pairs on every machine.

    Args:
        images: files, or functions that return a file's bytes.
        names: ``/``-separated names that tell folder and capture order; the paths by default.
        margin: what to add to the least score.

    Returns:
        Pairs in order of index.
    """
    names = [str(image).replace("\\", "/") for image in images] if names is None else list(names)
    codes, digests = describe(images)
    pairs = pair_codes(codes, names, margin)
    first: dict[bytes, int] = {}
    for b, digest in enumerate(digests):
        a = first.setdefault(digest, b) if digest else b
        if a != b:
            pairs[a, b] = 1.0
    return [NearDuplicates(a, b, score) for (a, b), score in sorted(pairs.items())]


def pair_codes(codes: np.ndarray, names: Sequence[str], margin: float = 0.0) -> dict[tuple[int, int], float]:
    """{(a, b): score} of the images that are alike by their codes (:func:`describe`)."""
    in_a_row = _unique(capture_neighbors(names))
    candidates = _unique(np.concatenate([in_a_row, nearest(codes)]))
    scores = correlate(codes, candidates)
    enough = np.where(_in(candidates, in_a_row, len(codes)), SAME_IN_A_ROW, SAME)
    usual = usual_scores(codes, [str(PurePosixPath(name).parent) for name in names])
    # Several products in one folder: each has its own holder, so its images are all alike, but no duplicates. Parts
    # of one design that lie a little differently in their holder are alike to different degrees: those that happen to
    # lie alike join all others in a chain, until what passes for usual is high enough.
    for quantile in (0.5, 0.95, 0.99, 1.0):
        least = CROWD if quantile == 0.5 else max(CHAIN * len(codes), CHAIN_FROM)
        seen: set[frozenset[int]] = set()
        while True:
            base = usual[candidates].max(axis=1, initial=0)
            relative = np.where(scores >= CERTAIN, scores, (scores - base) / np.maximum(1 - base, 1e-6))
            same = relative >= enough + margin
            crowds = _crowds(len(codes), candidates[same], least) - seen
            if quantile > 0.5:
                crowds = {crowd for crowd in crowds if _is_chain(codes, crowd, usual)}
            if not crowds:
                break
            for crowd in crowds:
                rows = np.array(sorted(crowd))
                usual[rows] = np.maximum(usual[rows], _usual_score(codes, rows, quantile))
            seen |= crowds
    found = relative[same].clip(max=0.999)  # 1 is for the same file
    return dict(zip(map(tuple, candidates[same].tolist()), found.tolist(), strict=True))


def describe(images: Sequence[ImageFile]) -> tuple[np.ndarray, list[bytes]]:
    """(N, 2K) int8, cosines then sines of K phases, times 127, zeros without structure; and each file's digest."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        described = tqdm(
            pool.map(_describe, images), total=len(images), desc="compare", unit="image", disable=not images
        )
        codes, digests = zip(*described, strict=True) if images else ((), ())
    return np.array(codes, np.int8).reshape(len(images), 2 * _kept.sum()), list(digests)


def _describe(image: ImageFile) -> tuple[np.ndarray, bytes]:
    nothing = np.zeros(2 * _kept.sum(), np.int8)
    try:
        if isinstance(image, Path) and not image.is_file():  # a pipe would wait for whoever writes into it
            return nothing, b""
        data = image.read_bytes() if isinstance(image, Path) else image()
    except (OSError, ValueError):
        return nothing, b""
    digest = digest_of(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            opened.draft("L", (2 * SIDE, 2 * SIDE))  # a large JPEG is decoded at a fraction of its size
            upright = ImageOps.exif_transpose(opened)
            grey = (upright if upright.mode in ("L", "RGB") else to_rgb(upright)).convert("L")
            grey = grey.reduce(max(1, min(grey.size) // (4 * SIDE))).convert("F")
            pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    except Exception:  # Pillow's plugins raise many types on damaged files
        return nothing, digest
    return encode(pixels), digest


def digest_of(data: bytes) -> bytes:
    """What tells a file's content from any other."""
    return hashlib.blake2b(data, digest_size=16).digest()


def encode(pixels: np.ndarray) -> np.ndarray:
    """(2K,) int8 code of a (SIDE, SIDE) float64 thumbnail.

    What is darker or brighter than its surroundings is clipped at its median, or one black hole would outweigh the
    texture around it, and two parts with a hole at one place would pass for near-duplicates.
    """
    relief = pixels - cv2.blur(pixels, (SURROUNDINGS, SURROUNDINGS))
    limit = np.median(np.abs(relief))
    spectrum = np.fft.rfft2(relief.clip(-limit, limit) * _window)[_kept]
    strength = np.abs(spectrum)
    phases = np.where(strength > 1e-6, spectrum / np.maximum(strength, 1e-6), 0)
    return np.rint(127 * np.concatenate([phases.real, phases.imag])).astype(np.int8)


def nearest(codes: np.ndarray) -> np.ndarray:
    """(M, 2) pairs: each image and its nearest by coarse structure."""
    from usearch.index import Index, search  # here, as inspection does without it

    rows = np.flatnonzero(codes.any(axis=1))
    if len(rows) < 2:
        return np.empty((0, 2), np.int64)
    vectors = np.ascontiguousarray(codes[rows][:, _coarse])
    count = min(NEIGHBORS + 1, len(rows))
    if len(rows) < EXACT_BELOW:
        matches = search(vectors, vectors, count, "cos", exact=True)
    else:
        index = Index(ndim=vectors.shape[1], metric="cos", dtype="i8", expansion_add=128, expansion_search=128)
        index.add(np.arange(len(rows)), vectors, threads=1)  # several would make another graph each time
        matches = index.search(vectors, count)
    found = np.asarray(matches.keys).astype(np.int64)
    return np.stack([rows.repeat(found.shape[1]), rows[found.ravel()]], 1)


def capture_neighbors(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of images at most IN_ORDER places apart when each folder is sorted by the numbers in the file names,
    longest number first (``exp2_num_1034``: 1034, then 2)."""
    folders: dict[PurePosixPath, list[tuple[list[int], str, int]]] = defaultdict(list)
    for i, name in enumerate(names):
        path = PurePosixPath(name)
        numbers = sorted(re.findall(r"[0-9]+", path.stem), key=len, reverse=True)
        if numbers:
            folders[path.parent].append(([int(number) for number in numbers], path.name, i))
    pairs = []
    for members in folders.values():
        order = [i for _, _, i in sorted(members)]
        pairs += [(a, b) for step in range(1, IN_ORDER + 1) for a, b in zip(order, order[step:], strict=False)]
    return pairs


def correlate(codes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(M,) phase correlation, -1 to 1, at the best shift, of (M, 2) pairs of rows of ``codes``."""
    norms = np.maximum(np.sqrt(np.square(codes, dtype=np.int32).sum(axis=1)), 1)
    scores = np.empty(len(pairs), np.float32)
    half = codes.shape[1] // 2
    for start in range(0, len(pairs), 4096):
        a, b = pairs[start : start + 4096].T
        left, right = codes[a].astype(np.float32), codes[b].astype(np.float32)
        cosines = left[:, :half] * right[:, :half] + left[:, half:] * right[:, half:]
        sines = left[:, half:] * right[:, :half] - left[:, :half] * right[:, half:]
        best = (np.concatenate([cosines, sines], 1) @ _ramps).max(axis=1)
        scores[start : start + 4096] = best / (norms[a] * norms[b])
    return scores


def usual_scores(codes: np.ndarray, folders: Sequence[str], least: int = 20) -> np.ndarray:
    """(N,) the median score of two images of the folder; of the whole set in a folder of fewer than ``least``."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, folder in enumerate(folders):
        members[folder].append(i)
    everywhere = np.arange(len(codes))
    usual = np.full(len(codes), _usual_score(codes, everywhere) if len(codes) >= least else 0.0)
    for rows in members.values():
        if len(rows) >= least:
            usual[rows] = _usual_score(codes, np.array(rows))
    return usual


def _usual_score(codes: np.ndarray, rows: np.ndarray, quantile: float = 0.5) -> float:
    """A quantile of the scores of pairs of these rows, from 0 on."""
    return max(0.0, float(np.quantile(correlate(codes, _drawn_pairs(rows)), quantile)))


def _drawn_pairs(rows: np.ndarray, sample: int = 2000) -> np.ndarray:
    drawn = np.random.RandomState(0).randint(0, len(rows), (sample, 2))
    return rows[drawn[drawn[:, 0] != drawn[:, 1]]]


def _is_chain(codes: np.ndarray, crowd: frozenset[int], usual: np.ndarray) -> bool:
    """Whether most pairs of a group are no near-duplicates: the images of one part are all alike."""
    pairs = _drawn_pairs(np.array(sorted(crowd)))
    base = usual[pairs].max(axis=1)
    return float(((correlate(codes, pairs) - base) / np.maximum(1 - base, 1e-6) >= SAME).mean()) < 0.5


def _crowds(count: int, pairs: np.ndarray, least: float) -> set[frozenset[int]]:
    """The groups of more than ``least`` images that pairs join."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(join(count, pairs.tolist())):
        members[group].append(i)
    return {frozenset(rows) for rows in members.values() if len(rows) > least}


def _in(pairs: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """(M,) whether each of M pairs is among the others."""
    return np.isin(pairs @ [count, 1], others @ [count, 1])


def _unique(pairs: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    """(M, 2) with a < b, sorted, each once."""
    array = np.sort(np.asarray(pairs, np.int64).reshape(-1, 2), axis=1)
    return np.unique(array[array[:, 0] < array[:, 1]], axis=0)
