"""What was found and what was missed: true defect regions by size, class and source, and a row for each image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dinov3.data.defect_images import ImageReadError, open_file
from dinov3.data.defect_manifest import Manifest
from dinov3.defect_evaluation.bootstrap import image_iou
from dinov3.defect_evaluation.image_results import HIT_SHARE, ImageResults
from dinov3.defect_evaluation.temperature import Rate
from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds, same_side

SIDES = (8, 16, 32, 64, 128)  # pixels of the original image: where the classes of size part
HIT_RULE = f"a true region counts as found if the mask marks at least {HIT_SHARE:.0%} of its pixels"
OUTCOMES = ("right", "missed", "overkill", "wrong type", "review")


@dataclass(frozen=True)
class Findings:
    """A finished pass over the images of ``rows``, in their order, seen through ``thresholds``."""

    results: ImageResults
    rows: Manifest
    thresholds: Thresholds

    @cached_property
    def images(self) -> np.ndarray:
        """(N,) records of :class:`ImageResults`."""
        return self.results.images

    @cached_property
    def regions(self) -> np.ndarray:
        """(M,) records of :class:`ImageResults`."""
        return self.results.regions

    @cached_property
    def class_prob(self) -> np.ndarray:
        """(N, K) calibrated class probabilities."""
        return self.thresholds.calibrated(self.images["class_prob"])

    @cached_property
    def score(self) -> np.ndarray:
        """(N,) defect probabilities."""
        return 1 - self.class_prob[:, 0]

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) class taken for the image's, as in inspection: the likeliest type of defect, unless it is accepted."""
        return np.where(self.verdict > 0, self.class_prob[:, 1:].argmax(1) + 1, 0)

    @cached_property
    def verdict(self) -> np.ndarray:
        """(N,) index in ``VERDICTS``."""
        review = self.thresholds.classification if self.thresholds.review is None else self.thresholds.review
        return np.where(self.score >= self.thresholds.classification, 2, np.where(self.score >= review, 1, 0))

    @cached_property
    def outcome(self) -> np.ndarray:
        """(N,) index in ``OUTCOMES``; -1 where the true class is unknown."""
        label, predicted = self.images["label"], self.predicted
        cases = [label < 0, self.verdict == 1, label == predicted, predicted == 0, label == 0]
        return np.select(cases, [-1, 4, 0, 1, 2], 3)

    @cached_property
    def parts(self) -> np.ndarray:
        """(N,) names of the physical parts."""
        return self.rows.parts

    @cached_property
    def found(self) -> np.ndarray:
        """(M,) whether a region was found: ``HIT_RULE``."""
        return self.regions["coverage"] >= HIT_SHARE

    @cached_property
    def scale(self) -> np.ndarray:
        """(M, 2) original pixels per pixel of the mask that was measured, across and down."""
        scale = np.ones((len(self.regions), 2))
        numbers, inverse = np.unique(self.regions["image"], return_inverse=True)
        for place, number in enumerate(numbers.tolist()):
            height, width = self.images["size"][number].tolist()
            try:
                with open_file(self.rows.root / self.rows.columns["image"][number]) as image:
                    sides = image.size
                    turned = image.getexif().get(0x0112, 1) >= 5
            except ImageReadError:
                continue
            across, down = sides[::-1] if turned else sides
            scale[inverse == place] = across / width, down / height
        return scale

    @cached_property
    def side(self) -> np.ndarray:
        """(M,) square root of a region's area, in pixels of the original image."""
        return np.sqrt(self.regions["area"] * self.scale.prod(axis=1))

    def hit_rates(self) -> dict[str, list[tuple[str, Rate]]]:
        """Share of regions found: of all, by ``size``, by ``class`` of the image, by its ``source``."""
        image = self.regions["image"]
        names = [*(f"< {side} px" for side in SIDES[:1]), *(f"{a} to {b} px" for a, b in zip(SIDES, SIDES[1:]))]  # noqa: B905
        names.append(f">= {SIDES[-1]} px")
        tables = {
            "all": np.full(len(image), "all regions"),
            "size": np.array(names)[np.digitize(self.side, SIDES)],
            "class": self.class_names[self.images["label"][image]],
            "source": self.rows.columns["source"][image],
        }
        order = {name: place for place, name in enumerate([*names, *self.class_names.tolist()])}
        return {
            table: [
                (name, Rate.of(self.found[values == name], self.parts[image[values == name]]))
                for name in sorted(set(values.tolist()), key=lambda name: (order.get(name, -1), name))
            ]
            for table, values in tables.items()
        }

    @cached_property
    def class_names(self) -> np.ndarray:
        """Names of the classes, so that index -1 is the unknown."""
        return np.array([*self.rows.classes, "unknown"])

    def verdict_counts(self) -> dict[str, dict[str, int]]:
        """Images of each class by verdict."""
        counts = {}
        for label, name in enumerate(self.rows.classes):
            verdicts = self.verdict[self.images["label"] == label]
            counts[name] = dict(zip(VERDICTS, np.bincount(verdicts, minlength=3).tolist(), strict=True))
        return counts

    def ranked(self, kind: str, limit: int) -> np.ndarray:
        """Images to look at: ``missed`` (the surest first), ``overkill`` (likewise), ``worst masks`` and ``best
        masks`` by IoU of images with a defect."""
        if kind in OUTCOMES:
            chosen = np.flatnonzero(self.outcome == OUTCOMES.index(kind))
            key = self.score[chosen] * (-1 if kind == "overkill" else 1)
        else:
            chosen = np.flatnonzero(self.images["tp"] + self.images["fn"] > 0)
            key = image_iou(self.images[chosen]) * (1 if kind == "worst masks" else -1)
        return chosen[np.argsort(key, kind="stable")][:limit]

    def image_rows(self) -> Iterator[dict[str, Any]]:
        """One row per image, in the order of the manifest."""
        columns, iou = self.rows.columns, image_iou(self.images)
        regions = np.bincount(self.regions["image"], minlength=len(self.images))
        found = np.bincount(self.regions["image"], self.found, len(self.images)).astype(int)
        for n, image in enumerate(self.images):
            row: dict[str, Any] = {name: columns[name][n] for name in ("image", "label", "source", "group")}
            is_known = image["label"] >= 0 or image["has_mask"]
            if is_known:
                row |= {"verdict": VERDICTS[self.verdict[n]], "predicted_class": self.class_names[self.predicted[n]]}
                row["outcome"] = "" if self.outcome[n] < 0 else OUTCOMES[self.outcome[n]]
                limits = (self.thresholds.classification, self.thresholds.review)
                row["defect_probability"] = same_side(float(self.score[n]), 6, *limits)
                row |= {f"prob_{c}": f"{p:.6f}" for c, p in zip(self.rows.classes, self.class_prob[n], strict=True)}
            else:
                row["outcome"] = "skipped"
            if image["has_mask"]:
                row["pixel_iou"] = "" if np.isnan(iou[n]) else f"{iou[n]:.4f}"
                row |= {"defect_pixels": image["tp"] + image["fn"], "marked_pixels": image["tp"] + image["fp"]}
                row |= {"regions": regions[n], "regions_found": found[n], "mask_peak": self._peak(image)}
            yield row

    def _peak(self, row: np.ndarray) -> float:
        return same_side(float(row["peak"]), 4, self.thresholds.mask)

    def region_rows(self, numbers: np.ndarray | None = None) -> Iterator[dict[str, Any]]:
        """One row per true defect region (of those in ``numbers``), lengths in pixels of the original image."""
        columns, names = self.rows.columns, dict(enumerate(self.rows.mask_classes, start=1))
        for m in range(len(self.regions)) if numbers is None else numbers.tolist():
            region = self.regions[m]
            n, (across, down) = region["image"], self.scale[m]
            x, y, width, height = (region["box"] * (across, down, across, down)).round().astype(int).tolist()
            yield {
                "image": columns["image"][n],
                "label": columns["label"][n],
                "source": columns["source"][n],
                "mask_class": names.get(int(region["mask_class"]), ""),  # a value that is no class has no name
                "x": x, "y": y, "width": width, "height": height,
                "area": round(float(region["area"] * across * down)),
                "coverage": f"{region['coverage']:.4f}",
                "mask_peak": self._peak(region),
                "found": "yes" if self.found[m] else "no",
                "image_verdict": VERDICTS[self.verdict[n]],
            }  # fmt: skip


def image_columns(classes: list[str]) -> list[str]:
    """Of :meth:`Findings.image_rows`."""
    columns = "image label source group verdict predicted_class outcome defect_probability".split()
    masks = "pixel_iou defect_pixels marked_pixels regions regions_found mask_peak".split()
    return [*columns, *(f"prob_{name}" for name in classes), *masks]


REGION_COLUMNS = "image label source mask_class x y width height area coverage mask_peak found image_verdict".split()
