"""What to label next: some images that the model is likely to learn from, and some drawn at random.

Four kinds take turns: those most likely to be defective, those nearest to a threshold, those on which mask and
classifier disagree, and those least like good parts. On a line few parts are defective, so that a label of one is worth
more than that of another good one, and near a threshold that misses few defects there are hardly any. Of the first
ones of each kind the one farthest from all chosen so far is taken (k-center, Sener and Savarese 2018, arXiv
1708.00489), and none of a part, or a near-duplicate of an image, that was chosen.

Chosen images say nothing of how many defects pass: they are not like the rest. The random share does: its parts are
drawn first, each with the same chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.data.defect_images import ImageReadError, read_for_size
from dinov3.data.defect_prepare.near_duplicates import find_near_duplicates
from dinov3.data.defect_prepare.splits import join
from dinov3.data.defect_resize import resize_image
from dinov3.defect_station.candidates import Candidate
from dinov3.defect_station.store.inspected import is_unchanged

RANDOM, SUSPECTED, DOUBTFUL, DISAGREEING, NOVEL = "random", "suspected", "doubtful", "disagreeing", "novel"
POOL = 5  # images looked at for each one wanted
FIRST = 3  # of those, how many times the wanted ones are good enough to take the farthest of them
NOVEL_FROM = 2  # deviations, from which on novelty counts in a verdict too
SIDE = 16  # pixels of the thumbnails by which images are told apart without embeddings


@dataclass(frozen=True)
class Chosen:
    """An image and why it was chosen: ``value`` is its defect probability (of a suspected one), its deviation from good
    parts (of a novel one), or else its distance to a threshold."""

    candidate: Candidate
    reason: str
    value: float | None = None


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        parts: among which the random ones were drawn.
        missing: images whose files are not there any more, skipped.
    """

    chosen: list[Chosen]
    parts: int
    missing: list[str]


def select(
    candidates: Sequence[Candidate],
    count: int,
    random_share: float,
    seed: int,
    features: Callable[[list[Candidate]], list[np.ndarray]],
) -> Selection:
    """Choose ``count`` images, or as many as there are parts that differ.

    Args:
        random_share: of ``count``, 0 to 1.
        features: arrays (N, D) of images, alike where the images are, NaN where nothing is known of one; images are
            compared by the first array that has both.
    """
    missing: list[str] = []
    drawn, parts = _draw(candidates, round(count * random_share), seed, missing)
    taken = {candidate.part for candidate in drawn}
    pools = _pools([c for c in candidates if c.part not in taken], (count - len(drawn)) * POOL, missing)
    everyone = list({id(c): c for c in [*drawn, *chain.from_iterable(pools.values())]}.values())
    chosen = [Chosen(candidate, RANDOM) for candidate in drawn]
    if len(chosen) < count and len(everyone) > len(drawn):
        kinship = _Kinship(everyone, features(everyone))
        for candidate in drawn:
            kinship.take(candidate)
        chosen += _take_turns(pools, count - len(drawn), kinship)
    return Selection(chosen, parts, missing)


def _draw(candidates: Sequence[Candidate], count: int, seed: int, missing: list[str]) -> tuple[list[Candidate], int]:
    """An image each of ``count`` parts, and the number of parts; what is gone is not drawn."""
    of_part: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        of_part[candidate.part].append(candidate)
    rng, drawn = np.random.default_rng(seed), []
    names = sorted(of_part)
    for place in rng.permutation(len(names)):
        if len(drawn) == count:
            break
        views = of_part[names[place]]
        view = views[rng.integers(len(views))]
        if _is_there(view, missing):
            drawn.append(view)
    return drawn, len(names)


def _pools(candidates: Sequence[Candidate], size: int, missing: list[str]) -> dict[str, list[Candidate]]:
    """The first images of each kind; kinds without any are not in it."""
    novel = [c for c in candidates if c.novelty is not None and c.novelty >= NOVEL_FROM]
    kinds = {
        SUSPECTED: sorted((c for c in candidates if c.verdict == "reject"), key=lambda c: -c.defect_probability),
        DISAGREEING: sorted((c for c in candidates if c.disagreement), key=lambda c: c.doubt),
        NOVEL: sorted(novel, key=lambda c: -c.novelty),
        DOUBTFUL: sorted(candidates, key=lambda c: c.doubt),
    }
    pools: dict[str, list[Candidate]] = {}
    for kind, members in kinds.items():
        pool: list[Candidate] = []
        for candidate in members:
            if len(pool) >= size:
                break
            if _is_there(candidate, missing):
                pool.append(candidate)
        if pool:
            pools[kind] = pool
    return pools


def _is_there(candidate: Candidate, missing: list[str]) -> bool:
    if is_unchanged(candidate.image, candidate.content_hash):
        return True
    if candidate.name not in missing:
        missing.append(candidate.name)
    return False


class _Kinship:
    """Which images are alike: of one part, near-duplicates, or near to each other by their features."""

    def __init__(self, candidates: list[Candidate], features: list[np.ndarray]):
        pairs = [(pair.a, pair.b) for pair in find_near_duplicates([c.image for c in candidates])]
        parts: dict[str, int] = {}
        pairs += [(parts.setdefault(c.part, number), number) for number, c in enumerate(candidates)]
        self.place = {id(c): number for number, c in enumerate(candidates)}
        self.group = join(len(candidates), pairs)
        # So that distances in two of them can be compared: by how far two images are apart on average.
        self.features = [values / max(np.sqrt(2 * np.nanvar(values, axis=0).sum()), 1e-12) for values in features]
        self.distance = np.full(len(candidates), np.inf, np.float32)  # to the nearest one taken
        self.taken: set[int] = set()

    def is_free(self, candidate: Candidate) -> bool:
        """Whether nothing of its kind was taken."""
        return self.group[self.place[id(candidate)]] not in self.taken

    def how_far(self, candidate: Candidate) -> float:
        """From all that was taken; infinite before the first one."""
        return float(self.distance[self.place[id(candidate)]])

    def take(self, candidate: Candidate) -> None:
        """It is chosen."""
        place = self.place[id(candidate)]
        self.taken.add(self.group[place])
        apart = np.full(len(self.distance), np.nan, np.float32)
        for values in self.features:
            apart = np.where(np.isnan(apart), ((values - values[place]) ** 2).sum(axis=1), apart)
        np.fmin(self.distance, apart, out=self.distance)


def _take_turns(pools: dict[str, list[Candidate]], count: int, kinship: _Kinship) -> list[Chosen]:
    chosen: list[Chosen] = []
    share = -(-count // len(pools)) * FIRST
    while pools and len(chosen) < count:
        for kind in list(pools):
            pools[kind] = free = [c for c in pools[kind] if kinship.is_free(c)]
            if not free:
                del pools[kind]
            elif len(chosen) < count:
                best = max(free[:share], key=kinship.how_far)
                kinship.take(best)
                values = {NOVEL: best.novelty, SUSPECTED: best.defect_probability}
                chosen.append(Chosen(best, kind, values.get(kind, best.doubt)))
    return chosen


def thumbnails(candidates: list[Candidate]) -> np.ndarray:
    """(N, D) float32 features of images without embeddings: small copies of the pictures; zeros where unreadable."""
    found = np.zeros((len(candidates), SIDE * SIDE * 3), np.float32)
    for row, candidate in zip(found, candidates, strict=True):
        row[:] = _thumbnail(candidate.image)
    return found


def _thumbnail(path: Path) -> Any:
    try:
        pixels, _ = read_for_size(path, SIDE * 4)
    except (ImageReadError, OSError):
        return 0.0
    return resize_image(pixels, (SIDE, SIDE)).reshape(-1) / 255.0
