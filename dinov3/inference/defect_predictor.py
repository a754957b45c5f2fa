"""From a checkpoint and images to predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dinov3.data.defect_dataset import as_tensor, start_worker, usable_workers
from dinov3.data.defect_images import ImageReadError, read_for_size, to_rgb
from dinov3.data.defect_tiles import Tiling
from dinov3.data.defect_transforms import Normalization, eval_transform
from dinov3.defect_errors import DefectError
from dinov3.models.defect_device import resolve_device, resolve_precision
from dinov3.models.defect_sliding_window import slide_window
from dinov3.train.defect_checkpoint import load_checkpoint, restore_model

DISPLAY_SIZE = 640  # longest side, in pixels, of the copy kept for the picture


@dataclass(frozen=True)
class Region:
    """A connected defect area (8-neighbourhood), in pixels of the original image."""

    class_name: str
    box: tuple[int, int, int, int]  # x, y, width, height
    polygon: list[tuple[int, int]]  # outer contour, x and y
    area: int
    score: float  # mean mask probability inside, 0 to 1


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image."""

    verdict: str  # accept or reject
    predicted_class: str
    probabilities: dict[str, float]  # per class, adding up to 1
    defect_probability: float  # 1 minus the probability of normal
    threshold: float  # from which on the verdict is reject
    mask: np.ndarray  # (H, W) uint8 at original size: 0, or the mask class
    attention: np.ndarray  # (h, w) float32: the classifier's pooling weights, which add up to 1
    regions: list[Region]
    milliseconds: float  # network and post-processing, its share of the batch

    @property
    def mask_area_fraction(self) -> float:
        """Share of the image's pixels that are marked as defect, 0 to 1."""
        return float((self.mask > 0).mean())


class DefectPredictor:
    """Predicts images with one checkpoint.

    ``predictor(image)`` takes a path, a PIL image, an (H, W, 3) or (H, W) uint8 array, or a (3, H, W) uint8 tensor,
    and returns a :class:`Prediction`; a list of them gives a list. An unreadable file raises ``ImageReadError``;
    :meth:`predict_files` reports it instead and goes on.

    A model trained on tiles slides its tile over each image; ``tile_size`` and ``tile_overlap`` ask for other tiles
    than the checkpoint's, or with size 0 for none.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        checkpoint: dict[str, Any],
        *,
        device: str = "auto",
        mixed_precision: str = "auto",
        threshold: float | None = None,
        mask_threshold: float | None = None,
        tile_size: int | None = None,
        tile_overlap: float | None = None,
    ):
        self.device = resolve_device(device)
        self.precision = resolve_precision(mixed_precision, self.device)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self.classes: list[str] = checkpoint["classes"]
        self.mask_classes: list[str] = checkpoint["mask_classes"]
        self.image_size: int = checkpoint["image_size"]
        self.normalization = Normalization(**checkpoint["normalization"])
        thresholds = checkpoint["thresholds"]
        self.threshold = thresholds["classification"] if threshold is None else threshold
        self.mask_threshold = thresholds["mask"] if mask_threshold is None else mask_threshold
        self.tiling = Tiling.of(checkpoint, tile_size, tile_overlap)
        self._resize = eval_transform(self.image_size)
        self._decode_size = self.image_size if self.tiling is None else None  # tiles come from all of the image

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        device: str = "auto",
        *,
        backbone: str | None = None,
        dinov3_repo: Path | None = None,
        **options: Any,
    ) -> DefectPredictor:
        """Open a checkpoint; ``backbone``, if given, must be the one it was trained with.

        Raises:
            DefectError: the file cannot be used, or the backbone is another one.
        """
        content = load_checkpoint(path)
        if backbone not in (None, content["backbone"]):
            raise DefectError(
                f"--backbone {backbone}: {path} was trained with {content['backbone']}; leave the flag out, or "
                "give a checkpoint of that backbone"
            )
        return cls(restore_model(content, path, dinov3_repo), content, device=device, **options)

    def __call__(self, image: Any) -> Prediction | list[Prediction]:
        images = image if isinstance(image, list) else [image]
        arrays, sizes = zip(*(_as_array(item, self._decode_size) for item in images), strict=True)
        if self.tiling is not None:
            predictions = [self.predict_tiles(array) for array in arrays]
        else:
            batch = torch.stack([resize_image(self._resize, array) for array in arrays])
            predictions = self.predict_batch(batch, list(sizes))
        return predictions if isinstance(image, list) else predictions[0]

    @torch.inference_mode()
    def predict_batch(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Prediction]:
        """Predict (B, 3, S, S) uint8 images that were resized from ``sizes`` (height, width)."""
        start = time.perf_counter()
        with self.precision.autocast():
            inputs = self.normalization(images.to(self.device, non_blocking=True))
            outputs = self.model(inputs, return_attention=True)
        class_prob = outputs["classification"].float().softmax(1).cpu().numpy()
        mask_prob = outputs["segmentation"].float().sigmoid()
        attention = outputs["attention_map"].float().cpu().numpy()
        network = (time.perf_counter() - start) / len(sizes)
        results = []
        for i, size in enumerate(sizes):
            start = time.perf_counter()
            probability = F.interpolate(mask_prob[i : i + 1], size, mode="bilinear")[0].cpu().numpy()  # (S, H, W)
            mask, regions = self._mask_and_regions(probability.max(axis=0), probability.argmax(axis=0))
            results.append(
                self._prediction(class_prob[i], mask, regions, attention[i, 0], network + time.perf_counter() - start)
            )
        return results

    def predict_tiles(self, image: np.ndarray, batch_size: int = 16) -> Prediction:
        """Predict an (H, W, 3) uint8 image of any size by ``batch_size`` tiles at a time."""
        start = time.perf_counter()
        output = slide_window(
            self.model,
            image,
            self.tiling,
            self.image_size,
            batch_size=batch_size,
            precision=self.precision,
            normalization=self.normalization,
        )
        mask, regions = self._mask_and_regions(output.mask_prob.numpy(), output.mask_channel.numpy())
        seconds = time.perf_counter() - start
        return self._prediction(output.class_prob.numpy(), mask, regions, output.attention.numpy(), seconds)

    def _mask_and_regions(self, peak: np.ndarray, strongest: np.ndarray) -> tuple[np.ndarray, list[Region]]:
        """Mask (H, W) and regions from the strongest channel's probability at each pixel, and which one that is."""
        mask = np.where(peak >= self.mask_threshold, strongest + 1, 0).astype(np.uint8)
        regions = []
        for value in np.unique(mask[mask > 0]):
            count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8))
            for number in range(1, count):
                x, y, width, height, area = (int(v) for v in stats[number])
                inside = labels[y : y + height, x : x + width] == number
                contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
                polygon = [(int(px) + x, int(py) + y) for px, py in contours[0][:, 0]]
                score = float(peak[y : y + height, x : x + width][inside].mean())
                regions.append(Region(self.mask_classes[value - 1], (x, y, width, height), polygon, area, score))
        return mask, sorted(regions, key=lambda region: -region.area)

    def _prediction(
        self,
        class_prob: np.ndarray,
        mask: np.ndarray,
        regions: list[Region],
        attention: np.ndarray,
        seconds: float,
    ) -> Prediction:
        defect_probability = float(1 - class_prob[0])
        reject = defect_probability >= self.threshold
        index = int(class_prob[1:].argmax()) + 1 if reject else 0
        probabilities = {name: float(p) for name, p in zip(self.classes, class_prob, strict=True)}
        return Prediction(
            "reject" if reject else "accept",
            self.classes[index],
            probabilities,
            defect_probability,
            self.threshold,
            mask,
            attention,
            regions,
            seconds * 1000,
        )

    def predict_files(
        self, paths: list[Path], *, batch_size: int = 16, num_workers: int = 2, display: bool = False
    ) -> Iterator[tuple[Path, Prediction | ImageReadError, np.ndarray | None]]:
        """Predict image files in order: (path, prediction or why it could not be read, small RGB copy or None).

        Files are decoded in ``num_workers`` processes; memory use does not depend on how many there are. By tiles,
        images come one by one and ``batch_size`` counts tiles.
        """
        loader = DataLoader(
            _ImageFiles(paths, self._decode_size, display),
            batch_size=batch_size if self.tiling is None else 1,
            num_workers=usable_workers(num_workers),
            collate_fn=list,
            worker_init_fn=start_worker,
            pin_memory=False,
        )
        for batch in loader:
            good = [item for item in batch if item["error"] is None]
            predictions = iter(())
            if good and self.tiling is not None:
                predictions = (self.predict_tiles(item["image"].numpy(), batch_size) for item in good)
            elif good:
                images = torch.stack([item["image"] for item in good])
                predictions = iter(self.predict_batch(images, [item["size"] for item in good]))
            for item in batch:
                result = next(predictions) if item["error"] is None else ImageReadError(item["error"])
                yield paths[item["index"]], result, item["display"]


def _as_array(image: Any, decode_size: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """Any accepted image as (H, W, 3) uint8 RGB, and its full (height, width); files as :func:`read_for_size` does."""
    if isinstance(image, (str, Path)):
        return read_for_size(image, decode_size)
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image)), (image.height, image.width)
    if isinstance(image, Tensor):
        image = image.permute(1, 2, 0).cpu().numpy() if image.ndim == 3 else image.cpu().numpy()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        kind = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(
            f"image is a {kind}; expected a path, a PIL image, or a uint8 array (H, W, 3) or tensor (3, H, W)"
        )
    return np.asarray(to_rgb(Image.fromarray(image))), image.shape[:2]


def resize_image(resize: torch.nn.Module, array: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, S, S) uint8, exactly as in validation."""
    return resize(as_tensor(array).permute(2, 0, 1))


class _ImageFiles(Dataset):
    """Files as items for the loader's workers, ``image`` resized to (3, S, S) if there is an ``image_size``, else
    (H, W, 3); an unreadable one comes with its error."""

    def __init__(self, paths: list[Path], image_size: int | None, display: bool):
        self.paths, self.image_size, self.display = paths, image_size, display
        self.resize = None if image_size is None else eval_transform(image_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"index": index, "error": None, "display": None}
        try:
            array, size = read_for_size(self.paths[index], self.image_size)
        except ImageReadError as error:
            return item | {"error": str(error)}
        if self.display:
            scale = DISPLAY_SIZE / max(array.shape[:2])
            small = [max(round(side * scale), 1) for side in array.shape[1::-1]]
            item["display"] = cv2.resize(array, small, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        image = torch.from_numpy(array.copy()) if self.resize is None else resize_image(self.resize, array)
        return item | {"image": image, "size": size}
