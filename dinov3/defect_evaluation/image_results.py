"""What a model made of each image of a split: a few numbers per image and per defect, and histograms of all pixels.

Enough to compute every metric afterwards, at any threshold of the verdict, with confidence intervals, and to list
what was missed; 100,000 images need some tens of megabytes, whatever their size in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from dinov3.data.defect_masks import IGNORE_INDEX, defect_pixels
from dinov3.defect_evaluation.thresholds import expect_finite

HIT_SHARE = 0.1  # of a true defect region's pixels that the mask must mark for it to count as found
PIECE = 1 << 20  # pixels whose histogram is made at a time
BLOCK = 64  # images whose histograms are added at once
LOG_ODDS = 16.0  # where the histograms end: probabilities of 1e-7 and 1 - 1e-7, where float32 ends too

REGION = np.dtype(
    [
        ("image", "i8"),  # number of the image in the pass
        ("mask_class", "u1"),  # its commonest mask value, 1 for the first mask class
        ("area", "i8"),  # pixels
        ("box", "i4", (4,)),  # x, y, width, height in pixels
        ("coverage", "f4"),  # share of its pixels that are marked, 0 to 1
        ("peak", "f4"),  # highest mask probability inside
    ]
)


class ImageResults:
    """Is filled in place of :class:`DefectMetrics` in ``evaluate``.

    Images keep the order of the pass. One that could not be read, or of which nothing is known, has label -1 and no
    mask. For one process: nothing is gathered over several.

    The histograms' bins are even in log-odds, not in probability: nearly all pixels of a trained model are close to 0,
    where even steps of probability would throw together what the curves tell apart.

    Args:
        num_classes: K, with normal.
        mask_threshold: mask probability from which on a pixel counts as marked.
        weights: (R, N) uint8, how often image n counts in resample r of a bootstrap, for ``histograms``; without it
            there is one row and each image counts once.
        bins: of the histograms.
    """

    def __init__(
        self, num_classes: int, mask_threshold: float = 0.5, *, weights: np.ndarray | None = None, bins: int = 1000
    ):
        self.num_classes, self.mask_threshold, self.weights, self.bins = num_classes, mask_threshold, weights, bins
        self._histograms = np.zeros((1 if weights is None else len(weights), 3, bins))
        self._waiting: list[tuple[int, np.ndarray]] = []
        self._image_type = np.dtype(
            [
                ("class_prob", "f4", (num_classes,)),
                ("label", "i4"),
                ("has_mask", "?"),
                ("size", "i4", (2,)),  # height and width of the mask, in pixels
                *((name, "i8") for name in ("tp", "fp", "fn", "tn")),  # pixels that are not ignored
                ("peak", "f4"),  # highest mask probability
            ]
        )
        self._images, self._regions = bytearray(), bytearray()

    def __len__(self) -> int:
        return len(self._images) // self._image_type.itemsize

    @property
    def images(self) -> np.ndarray:
        """(N,) records, one per image, with the fields named in ``__init__``."""
        return np.frombuffer(bytes(self._images), self._image_type)

    @property
    def regions(self) -> np.ndarray:
        """(M,) records of the type ``REGION``, one per connected defect region of the true masks."""
        return np.frombuffer(bytes(self._regions), REGION)

    @property
    def histograms(self) -> np.ndarray:
        """(R, 3, bins) float64, over the mask probability: normal pixels, defect pixels, and defect pixels each
        counted as one over the area of its region, so that a region adds up to 1."""
        self._add_waiting()
        return self._histograms

    @property
    def class_prob(self) -> np.ndarray:
        """(N, K) float32 class probabilities as they came, at temperature 1."""
        return self.images["class_prob"]

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices, -1 unknown."""
        return self.images["label"]

    def add(self, class_prob: np.ndarray, mask_prob: np.ndarray, label: int, mask: np.ndarray, has_mask: bool) -> None:
        """Add the next image.

        Args:
            class_prob: (K,) probabilities at temperature 1.
            mask_prob: (H, W) float32, each pixel's defect probability.
            label: class index; -1 of a file that could not be read, whose answers do not count.
            mask: (H, W) uint8 class indices.
            has_mask: whether ``mask`` is known.
        """
        if label >= 0:  # an unreadable file has none, and no answer
            expect_finite(class_prob, mask_prob)
        image = np.zeros((), self._image_type)
        image["class_prob"], image["label"], image["has_mask"] = class_prob, label, has_mask
        image["size"], image["peak"] = tuple(mask.shape), mask_prob.max()
        if has_mask:
            marked, known = mask_prob >= self.mask_threshold, mask != IGNORE_INDEX
            defect = defect_pixels(mask)
            counts = [defect & marked, known & ~defect & marked, defect & ~marked, known & ~defect & ~marked]
            tp, fp, fn, tn = map(np.count_nonzero, counts)
            image["tp"], image["fp"], image["fn"], image["tn"] = tp, fp, fn, tn
            self._add_pixels(mask_prob, mask, defect, known, tp + fn > 0)
        self._images += image.tobytes()

    def _add_pixels(
        self, mask_prob: np.ndarray, mask: np.ndarray, defect: np.ndarray, known: np.ndarray, has_defect: bool
    ) -> None:
        """The image's histograms and, if any, its defect regions."""
        total = np.zeros(3 * self.bins)
        rows = max(PIECE // mask.shape[1], 1)
        for start in range(0, len(mask), rows):
            part = slice(start, start + rows)
            kind = np.where(known[part], defect[part].astype(np.int32), 2)
            total += np.bincount((kind * self.bins + self._bin(mask_prob[part])).ravel(), minlength=len(total))
        histogram = total.reshape(3, self.bins)
        histogram[2] = self._add_regions(mask_prob, mask, defect) if has_defect else 0.0
        self._waiting.append((len(self), histogram))
        if len(self._waiting) == BLOCK:
            self._add_waiting()

    def _add_regions(self, mask_prob: np.ndarray, mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Note each defect region; (bins,) histogram of their pixels, each region adding up to 1."""
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8))
        number, value, prob = numbers[inside], mask[inside], mask_prob[inside]
        score = self._bin(prob)
        area = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
        area[0] = 1  # the background, which has no pixel here
        regions = np.zeros(count, REGION)
        regions["image"], regions["area"], regions["box"] = len(self), area, stats[:, :4]
        regions["coverage"] = np.bincount(number, prob >= self.mask_threshold, count) / area
        peak = np.zeros(count, np.float32)
        np.maximum.at(peak, number, prob)
        regions["peak"] = peak
        regions["mask_class"] = np.bincount(number * 256 + value, minlength=count * 256).reshape(count, 256).argmax(1)
        self._regions += regions[1:].tobytes()
        return np.bincount(score, 1 / area[number], self.bins)

    def _bin(self, probability: np.ndarray) -> np.ndarray:
        inside = probability.clip(1e-7, 1 - 1e-7)
        place = (np.log(inside / (1 - inside)) / LOG_ODDS + 1) * (self.bins / 2)
        return place.astype(np.int32).clip(0, self.bins - 1)

    def _add_waiting(self) -> None:
        if self._waiting:
            numbers, histograms = zip(*self._waiting, strict=True)
            count = np.ones((1, len(numbers))) if self.weights is None else self.weights[:, numbers].astype(np.float64)
            self._histograms += np.tensordot(count, np.stack(histograms), 1)
            self._waiting = []
