"""A model as one ONNX graph, from uint8 images to probabilities, of fixed size and any batch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from dinov3.defect_errors import DefectError
from dinov3.models.defect_engines.base import INPUT, REQUIRED
from dinov3.models.defect_engines.class_token import ClassToken

OPSET = 20  # taken by onnxruntime from 1.17 and OpenVINO from 2024.1 on
# A graph that branches, loops or asks which values are not zero depends on what it was traced with.
FORBIDDEN = ("If", "Loop", "Scan", "NonZero")
DOMAINS = ("", "ai.onnx")


class SelfContained(nn.Module):
    """A model with all that belongs between uint8 pixels and probabilities.

    Args:
        model: with the outputs of :class:`~dinov3.models.defect_classifier.AttentionGuidedDefectClassifier`.
        mean, std: per channel, of images in 0..1.
        novelty: the model has that output.
    """

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], novelty: bool):
        super().__init__()
        self.model, self.class_token = model, ClassToken(model)
        more = {"novelty": novelty, "embedding": self.class_token.exists}
        self.output_names = [*REQUIRED, *(name for name, has in more.items() if has)]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, H, W, 3) uint8 to class probabilities (B, K) at temperature 1, mask probabilities (B, S, H, W), attention
        (B, 1, h, w) and, if the model has them, novelty (B, 1, H, W) and embedding (B, D)."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        outputs = self.model(pixels, return_attention=True)
        answers = {
            "class_prob": outputs["classification"].softmax(1),
            "mask_prob": outputs["segmentation"].sigmoid(),
            "attention": outputs["attention_map"],
            "novelty": outputs.get("novelty"),
            "embedding": self.class_token.take(images.shape[0]),
        }
        return tuple(answers[name] for name in self.output_names)


def export_graph(network: SelfContained, image_size: tuple[int, int], name: str) -> onnx.ModelProto:
    """The graph of a network in eval mode on the CPU, for batches of any size of images of ``image_size`` (height,
    width) alone: a rotary embedding keeps the grid that it was traced with.

    Args:
        name: of the model, for messages.

    Raises:
        DefectError: it cannot be exported as a graph that engines run alike.
    """
    images = torch.zeros(2, *image_size, 3, dtype=torch.uint8)
    try:
        with torch.inference_mode(False), torch.no_grad(), _silent():
            program = torch.onnx.export(
                network,
                (images,),
                input_names=[INPUT],
                output_names=network.output_names,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
        model = program.model_proto
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.UserError, RuntimeError) as error:
        raise DefectError(f"{name}: cannot be exported ({_first_line(error)}); inspect with the checkpoint") from None
    expect_plain(model, name)
    return model


def expect_plain(model: onnx.ModelProto, source: str | Path) -> None:
    """Refuse a graph that some engine would not run, or whose course depends on the images.

    Raises:
        DefectError: it holds operators of ``FORBIDDEN`` or of no standard, functions, or a fixed batch.
    """
    found = Counter(node.op_type for node in _nodes(model.graph))
    wrong = [name for name in FORBIDDEN if found[name]]
    wrong += sorted({f"{n.domain}.{n.op_type}" for n in _nodes(model.graph) if n.domain not in DOMAINS})
    wrong += [f"function {function.name}" for function in model.functions]
    if wrong:
        raise DefectError(
            f"{source}: its graph holds {', '.join(wrong)}, so that it may answer other images in another way; this "
            "model cannot be exported, inspect with the checkpoint"
        )
    for value in (*model.graph.input, *model.graph.output):
        sides = value.type.tensor_type.shape.dim
        if not sides or sides[0].HasField("dim_value") or not all(side.HasField("dim_value") for side in sides[1:]):
            raise DefectError(
                f"{source}: {value.name} is of shape {[side.dim_param or side.dim_value for side in sides]}; expected "
                "a free batch and all other sides fixed"
            )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter tells of its steps."""
    level = logging.getLogger("onnxscript").level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("onnxscript").setLevel(level)


def _first_line(error: BaseException) -> str:
    """The reason that lies deepest, shortened."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
