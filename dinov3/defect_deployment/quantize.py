"""int8 by onnxruntime's static quantisation, and what may be lost by it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from dinov3.defect_deployment.scoring import Scored, mask_iou, verdicts
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.calibrate import summary
from dinov3.defect_evaluation.temperature import Calibration
from dinov3.models.defect_engines.base import INPUT
from dinov3.models.defect_facts import ModelFacts

MOST_AP_LOST, MOST_FLIPS, LEAST_IOU = 0.005, 0.01, 0.94
FEW_MAPS = 16
EXACT_SHARES = (0.0, 1 / 3)  # tried in turn: slower, and closer to float32
OPERATORS = ("Conv", "MatMul", "Gemm", "Add", "Relu", "Clip", "MaxPool", "GlobalAveragePool", "AveragePool")


def quantize(source: Path, destination: Path, batches: Iterable[np.ndarray], exact_share: float = 0.0) -> None:
    """Write the int8 form of a float32 file: QDQ, unsigned activations and signed weights with a scale per channel.

    Args:
        exact_share: of the convolutions and products, from the image on, that stay float32 (0 to 1).
        batches: (B, H, W, 3) uint8 training images, whose values set the scales of the activations.

    Raises:
        DefectError: onnxruntime cannot do it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    prepared = source.with_name(f"{source.stem}-prepared.onnx")
    level = logging.getLogger().level
    try:
        logging.getLogger().setLevel(logging.ERROR)  # it says that it ran its own first step
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            destination,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=kept_exact(onnx.load(prepared), exact_share),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    except Exception as error:  # onnxruntime's own types share no base class
        reason = " ".join(str(error).split())[:300]
        raise DefectError(f"int8: onnxruntime cannot quantise this model ({reason}); use --precision fp32") from None
    finally:
        logging.getLogger().setLevel(level)
        prepared.unlink(missing_ok=True)


def kept_exact(model: onnx.ModelProto, share: float) -> list[str]:
    """The names of the first ``share`` of the convolutions and products, and of the convolutions that see the image
    itself or a few maps of it: rounding there goes into all that follows, and there is little time to gain."""
    weighted = [node.name for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    shapes = {values.name: tuple(values.dims) for values in model.graph.initializer}
    found = weighted[: round(share * len(weighted))]
    for node in model.graph.node:
        shape = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if len(shape) == 4 and shape[1] <= FEW_MAPS and max(shape[2:]) > 1 and groups == 1:
            found.append(node.name)
    return found


@dataclass(frozen=True)
class Reduction:
    """What a form of lower precision changes on the validation images; each form with limits of its own.

    Attributes:
        full, reduced: the answers of the float32 form and of the other one.
        full_calibration, reduced_calibration: on these images.
        flips: images with another verdict.
        iou: of the marked pixels of both.
        exact_share: of the layers, from the image on, that compute in float32 in both.
    """

    full: Scored
    reduced: Scored
    full_calibration: Calibration
    reduced_calibration: Calibration
    flips: int
    iou: float
    exact_share: float

    @classmethod
    def of(
        cls,
        full: Scored,
        reduced: Scored,
        calibrations: tuple[Calibration, Calibration],
        facts: ModelFacts,
        exact_share: float,
    ) -> Reduction:
        """Compare."""
        pairs = zip(*(verdicts(calibration, facts) for calibration in calibrations), strict=True)
        flips = sum(a != b for a, b in pairs)
        return cls(full, reduced, *calibrations, flips=flips, iou=mask_iou(full, reduced), exact_share=exact_share)

    def problems(self) -> list[str]:
        """What is beyond the limits; empty if nothing is."""
        images, lost = len(self.full.labels), self.full.average_precision - self.reduced.average_precision
        found = []
        if not lost <= MOST_AP_LOST:
            found.append(f"image AP falls by {lost:.4f}; expected at most {MOST_AP_LOST}")
        if not self.flips <= MOST_FLIPS * images:
            found.append(f"{self.flips} of {images} verdicts flip; expected at most {MOST_FLIPS:.0%}")
        if not self.iou >= LEAST_IOU:
            found.append(f"mask IoU with fp32 is {self.iou:.3f}; expected at least {LEAST_IOU}")
        return found

    def record(self) -> dict[str, object]:
        """For export.json."""
        return {
            "images": len(self.full.labels),
            "image_ap": {"fp32": self.full.average_precision, "reduced": self.reduced.average_precision},
            "flips": self.flips,
            "mask_iou_with_fp32": self.iou,
            "layers_kept_in_fp32": self.exact_share,
            "calibration": {"fp32": self.full_calibration.facts(), "reduced": self.reduced_calibration.facts()},
        }

    def lines(self, precision: str) -> list[str]:
        """For people."""
        kept = (
            [f"{self.exact_share:.0%} of the layers, those next to the image, stay in fp32"] if self.exact_share else []
        )
        return [
            *kept,
            f"image AP {self.full.average_precision:.4f} in fp32, {self.reduced.average_precision:.4f} in {precision}",
            f"{self.flips} of {len(self.full.labels)} verdicts flip; mask IoU with fp32 {self.iou:.3f}",
            f"fp32: {summary(self.full_calibration)}",
            f"{precision}: {summary(self.reduced_calibration)}",
            "the checkpoint's own promise does not carry over; the file carries the one of its own calibration",
        ]
