"""A model file that takes no exporter to make: defective as far as the image is bright, masked where it is, described
by its mean colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dinov3.models.defect_engines.base import INPUT
from dinov3.models.defect_facts import METADATA_KEY, ModelFacts


def write_toy(path: Path, facts: ModelFacts, embedding: bool = True) -> Path:
    """Write the model with ``facts`` to ``path``; its classes are two, its mask is one. Files of the first version had
    no ``embedding``."""
    constants = {
        "pixels": np.array([1, 2, 3]),
        "channels": np.array([1]),
        "places": np.array([1, 2]),
        "white": np.array(255, np.float32),
        "one": np.array(1, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["values", "white"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "pixels"], ["bright"], keepdims=0),
        helper.make_node("Unsqueeze", ["bright", "channels"], ["defect"]),
        helper.make_node("Sub", ["one", "defect"], ["normal"]),
        helper.make_node("Concat", ["normal", "defect"], ["class_prob"], axis=1),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes", "channels"], ["mask_prob"], keepdims=1),
        helper.make_node("Identity", ["mask_prob"], ["attention"]),
    ]
    if embedding:
        nodes.append(helper.make_node("ReduceMean", ["scaled", "places"], ["embedding"], keepdims=0))
    height, width = facts.image_size
    outputs = {"class_prob": ["B", 2], "mask_prob": ["B", 1, height, width], "attention": ["B", 1, height, width]}
    outputs |= {"embedding": ["B", 3]} if embedding else {}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", height, width, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: facts.to_json(), "author": "a test"})
    onnx.save(model, path)
    return path
