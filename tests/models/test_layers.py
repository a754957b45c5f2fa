"""A backbone as layers: their order, learning rates, partial freeze, drop path, activation checkpointing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.networks import OfficialLike, build_model
from test_official import REPO, needs_repo
from timm.layers import DropPath
from torch import nn

from dinov3._official import load_official_backbone
from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import MultiTaskLoss
from dinov3.models.defect_layers import backbone_layers, checkpoint_activations, set_drop_path
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_optim import build_lr_scheduler, build_optimizer, parameter_groups, summarize_rates

# The last layer, and what stands in the first, a middle and the last one, by the end of the name.
TABLE = {
    "dinov3_vitt16": (12, {"cls_token": 0, "patch_embed.proj.bias": 0, "blocks.4.gamma_1": 5, "network.norm.bias": 12}),
    "dinov3_convnext_tiny": (
        18,
        {"stem.0.weight": 0, "stages.1.downsample.1.weight": 4, "stages.1.blocks.0.gamma": 4, "head.norm.bias": 18},
    ),
    "efficientnet_lite0": (16, {"conv_stem.weight": 0, "blocks.3.1.conv_pw.weight": 7, "conv_head.weight": 16}),
}


def loss_of(model: nn.Module) -> torch.Tensor:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    outputs = model(images)
    return outputs["classification"].square().sum() + outputs["segmentation"].square().mean()


@pytest.mark.parametrize("name", TABLE)
def test_layers_run_from_the_image_to_the_final_norm(name: str) -> None:
    backbone = build_backbone(name, "none")
    layers = backbone_layers(backbone)
    last, expected = TABLE[name]
    assert set(layers) == {name for name, _ in backbone.named_parameters()}
    assert sorted(set(layers.values())) == list(range(last + 1))
    for end, layer in expected.items():
        assert {number for name, number in layers.items() if name.endswith(end)} == {layer}, end


def test_layers_of_official_names_and_of_an_unknown_module() -> None:
    assert backbone_layers(OfficialLike()) == {
        **dict.fromkeys(("cls_token", "storage_tokens", "patch_embed.weight", "patch_embed.bias"), 0),
        **dict.fromkeys(("blocks.0.linear.weight", "blocks.0.linear.bias"), 1),
        **dict.fromkeys(("blocks.1.linear.weight", "blocks.1.linear.bias", "norm.weight", "norm.bias"), 2),
    }
    assert set(backbone_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).values()) == {0}


@needs_repo
@pytest.mark.parametrize(("name", "last"), [("dinov3_vits16", 12), ("dinov3_convnext_tiny", 18)])
def test_layers_of_the_official_networks_are_those_of_timm(name: str, last: int) -> None:
    official = load_official_backbone(REPO, name, "none")
    layers = backbone_layers(official)
    assert set(layers) == {name for name, _ in official.named_parameters()} and max(layers.values()) == last
    blocks = sum(1 for m in official.modules() if hasattr(m, "sample_drop_ratio") or hasattr(m, "drop_path"))
    assert blocks == last
    set_drop_path(official, 0.2)
    checkpoint_activations(official)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("name", [*TABLE, "official"])
def test_groups_are_disjoint_and_complete_and_decay_matrices_alone(name: str, layer_decay: float) -> None:
    model, criterion = build_model(name), MultiTaskLoss(use_uncertainty_weighting=True)
    optimizer = build_optimizer(
        model, criterion, TrainConfig(data_root=Path("x"), backbone_lr_scale=0.1, layer_decay=layer_decay)
    )
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in (*model.parameters(), *criterion.parameters())}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    norms = {id(p) for m in model.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}
    for key, parameter in model.named_parameters():
        plain = key.endswith(("bias", "token", "tokens", "gamma", "gamma_1", "gamma_2")) or id(parameter) in norms
        if key != "decoder.head.weight":  # one row, for a single mask channel
            assert decay[id(parameter)] == (0.0 if plain else 0.05), key
    assert decay[id(criterion.log_vars)] == 0


def test_each_rate_reaches_the_optimizer() -> None:
    model, criterion = build_model("official"), MultiTaskLoss(use_uncertainty_weighting=True)
    config = TrainConfig(data_root=Path("x"), lr=1e-3, backbone_lr_scale=0.2, weight_decay=0.05, layer_decay=0.5)
    optimizer = build_optimizer(model, criterion, config)
    table = {
        "backbone_0": (0.5e-4, 0.05),
        "backbone_0_no_decay": (0.5e-4, 0),
        "backbone_1": (1e-4, 0.05),
        "backbone_1_no_decay": (1e-4, 0),
        "backbone_2": (2e-4, 0.05),
        "backbone_2_no_decay": (2e-4, 0),
        "heads": (1e-3, 0.05),
        "heads_no_decay": (1e-3, 0),
        "task_weights": (1e-2, 0),
    }
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert groups == {name: pytest.approx(values) for name, values in table.items()}
    logged = {"lr_backbone_0": 0.5e-4, "lr_backbone_2": 2e-4, "lr_heads": 1e-3, "lr_task_weights": 1e-2}
    rates = {name: rate for name, (rate, _) in groups.items()}
    assert summarize_rates(rates) == {name: pytest.approx(rate) for name, rate in logged.items()}
    build_lr_scheduler(optimizer, 100)  # a warm-up of 5 steps
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {name: pytest.approx(rate / 6) for name, (rate, _) in table.items()}
    # and moves the weights: AdamW's first step is the rate itself
    before = {key: value.clone() for key, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for key, name in (
        ("backbone.patch_embed.bias", "backbone_0_no_decay"),
        ("backbone.norm.bias", "backbone_2_no_decay"),
    ):
        moved = before[key] - dict(model.named_parameters())[key]
        torch.testing.assert_close(moved, torch.full_like(moved, rates[name]), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "count", "first", "not_yet"),
    [
        ("dinov3_vitt16", 2, "network.blocks.10.gamma_1", "network.blocks.9.mlp.fc2.bias"),
        ("dinov3_convnext_tiny", 3, "network.stages.3.downsample.0.weight", "network.stages.2.blocks.8.gamma"),
        ("efficientnet_lite0", 1, "network.blocks.6.0.conv_pw.weight", "network.blocks.5.3.bn3.bias"),
        ("official", 1, "blocks.1.linear.weight", "blocks.0.linear.bias"),
    ],
)
def test_unfreeze_last_trains_exactly_these(name: str, count: int, first: str, not_yet: str) -> None:
    model = build_model(name)
    model.freeze_backbone(True, unfreeze_last=count)
    names = [key for key, parameter in model.backbone.named_parameters() if parameter.requires_grad]
    layers = backbone_layers(model.backbone)
    assert set(names) == {key for key, layer in layers.items() if layer > max(layers.values()) - count}
    assert first in names and not_yet not in names
    model.train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    loss_of(model).backward()
    trained = {p for group in parameter_groups(model, MultiTaskLoss(), 1e-3, 1, 0) for p in group["params"]}
    assert {key for key, p in model.backbone.named_parameters() if p in trained} == set(names)
    assert all(p.grad is None for p in model.backbone.parameters() if not p.requires_grad)
    # what is frozen keeps its norm statistics too, and what trains moves them
    moved = {key for key, value in model.backbone.state_dict().items() if not torch.equal(value, before[key])}
    frozen = [key.rsplit(".", 1)[0] for key in layers if key not in names]
    assert not any(key.rsplit(".", 1)[0] in frozen for key in moved)
    assert bool(moved) == (name == "efficientnet_lite0")


def test_more_layers_than_there_are() -> None:
    with pytest.raises(DefectError, match="--unfreeze_last 4: this backbone has 3 layers"):
        build_model("official").freeze_backbone(True, unfreeze_last=4)


@pytest.mark.parametrize("name", ["dinov3_vitt16", "dinov3_convnext_tiny", "efficientnet_lite0"])
def test_drop_path_reaches_the_blocks_and_rests_when_frozen(name: str) -> None:
    model = build_model(name)
    set_drop_path(model.backbone, 0.3)
    rates = [module.drop_prob for module in model.backbone.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates) and rates[0] > 0 and rates[-1] == pytest.approx(0.3)
    with torch.no_grad():
        for key, parameter in model.backbone.named_parameters():
            if "gamma" in key:
                parameter.fill_(0.5)  # else a block at its start changes next to nothing
    images = torch.rand(8, 3, 64, 64)

    def differs() -> bool:
        model.train()
        with torch.no_grad():
            tokens = [model.backbone.forward_features(images)["x_norm_clstoken"] for _ in range(3)]
        return not (torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], tokens[2]))

    assert differs()
    model.freeze_backbone()
    assert not differs()


def test_drop_path_of_official_blocks_and_of_none() -> None:
    backbone = OfficialLike()
    set_drop_path(backbone, 0.4)
    assert [block.sample_drop_ratio for block in backbone.blocks] == [0, 0.4]
    with pytest.raises(DefectError, match="--drop_path 0.1"):
        set_drop_path(nn.Linear(2, 2), 0.1)


@pytest.mark.parametrize("name", ["dinov3_vitt16", "efficientnet_lite0", "official"])
def test_checkpointed_activations_give_the_same_loss_and_gradients(name: str) -> None:
    model = build_model(name).eval()
    kept: list[int] = []

    def run() -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        model.zero_grad(set_to_none=True)
        kept.append(0)

        def count(tensor: torch.Tensor) -> torch.Tensor:
            kept[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = loss_of(model)
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters()]

    loss, gradients = run()
    checkpoint_activations(model.backbone)
    again, others = run()
    torch.testing.assert_close(again, loss)
    assert [g is None for g in gradients] == [g is None for g in others]
    for gradient, other in zip(gradients, others, strict=True):
        if gradient is not None:
            torch.testing.assert_close(other, gradient)
    assert kept[1] < kept[0]
