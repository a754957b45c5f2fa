"""Reading weights files of three layouts, and what is said about files of another backbone."""

import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_weights import load_weights


@torch.no_grad()
def randomize(network):
    """Give every tensor values that matter: layer scales, biases and tokens start at (nearly) zero."""
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def tiny():
    """The tiny ViT, every tensor random."""
    return randomize(build_backbone("dinov3_vitt16", "none"))


def assert_same_weights(backbone, other):
    state = other.state_dict()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def rename(state, *pairs):
    for old, new in pairs:
        state = {re.sub(old, new, key): value for key, value in state.items()}
    return state


def meta_vit(network):
    """The state of one of timm's ViTs under Meta's names."""
    state = dict(network.state_dict())
    for key in [key for key in state if key.endswith("q_bias")]:
        q, v = state.pop(key), state.pop(key.replace("q_bias", "v_bias"))
        state[key.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.full_like(q, 7.0), v])
        state[key.replace("q_bias", "qkv.bias_mask")] = torch.cat([q * 0 + 1, q * 0, q * 0 + 1])
    state |= {"mask_token": torch.zeros(1, 192), "rope_embed.periods": torch.ones(16)}
    return rename(state, ("reg_token", "storage_tokens"), (r"gamma_(\d)", r"ls\1.gamma"))


# --- layouts


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["timm", "Meta"])
def test_vit_layouts_and_formats(tiny, tmp_path, layout, suffix):
    state = tiny.network.state_dict() if layout == "timm" else meta_vit(tiny.network)
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, file)
    backbone = build_backbone("dinov3_vitt16", "none")
    assert f"{layout} layout" in load_weights(backbone, file)
    assert_same_weights(backbone, tiny)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"_orig_mod.backbone.{key}": value for key, value in state.items()},
        lambda state: {
            "student": {f"backbone.{key}": value * 0 for key, value in state.items()},
            "teacher": {f"backbone.{key}": value for key, value in state.items()} | {"dino_head.x": torch.ones(1)},
        },
    ],
    ids=["model", "ddp", "compiled", "teacher"],
)
@pytest.mark.parametrize("layout", ["timm", "Meta"])
def test_wrappers_around_the_weights(tiny, tmp_path, wrap, layout):
    torch.save(wrap(tiny.network.state_dict() if layout == "timm" else meta_vit(tiny.network)), tmp_path / "w.pth")
    assert_same_weights(build_backbone("dinov3_vitt16", tmp_path / "w.pth"), tiny)


@torch.no_grad()
def test_a_file_without_q_and_v_biases_computes_the_same(tmp_path):
    network = randomize(timm.create_model("vit_small_patch16_dinov3", num_classes=0))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = build_backbone("dinov3_vits16", "none").eval()
    assert "q and v biases zero" in load_weights(backbone, tmp_path / "w.safetensors")
    images = torch.randn(1, 3, 64, 96)
    expected = network.forward_features(images)
    features = backbone.forward_features(images)
    torch.testing.assert_close(features["x_norm_clstoken"], expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features["x_norm_patchtokens"], expected[:, 5:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("saved", ["save_pretrained", "state_dict"])
@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "gated"])
@torch.no_grad()
def test_transformers_vit(tmp_path, gated, saved):
    transformers = pytest.importorskip("transformers", minversion="4.56", reason="transformers not installed")
    width, heads = (384, 6) if gated else (192, 3)
    config = transformers.DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=1536 if gated else 768,
        num_attention_heads=heads,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        layerscale_value=1e-5,
    )
    model = randomize(transformers.DINOv3ViTModel(config))
    if saved == "state_dict":
        torch.save(model.state_dict(), tmp_path / "w.bin")
    else:
        model.save_pretrained(tmp_path)
    backbone = build_backbone("dinov3_vits16plus" if gated else "dinov3_vitt16", tmp_path).eval()
    images = torch.randn(2, 3, 64, 96)
    expected = model(images).last_hidden_state
    features = backbone.forward_features(images)
    torch.testing.assert_close(features["x_norm_clstoken"], expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features["x_norm_patchtokens"], expected[:, 5:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("saved", ["save_pretrained", "state_dict"])
@torch.no_grad()
def test_transformers_convnext(tmp_path, saved):
    transformers = pytest.importorskip("transformers", minversion="4.56", reason="transformers not installed")
    model = randomize(transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig()))
    if saved == "state_dict":
        torch.save(model.state_dict(), tmp_path / "w.bin")
    else:
        model.save_pretrained(tmp_path)
    backbone = build_backbone("dinov3_convnext_tiny", tmp_path).eval()
    images = torch.randn(1, 3, 64, 96)
    expected = model(images).last_hidden_state
    features = backbone.forward_features(images)
    torch.testing.assert_close(features["x_norm_clstoken"], expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features["x_norm_patchtokens"], expected[:, 1:], atol=1e-5, rtol=1e-5)


def test_meta_convnext(tmp_path):
    backbone = randomize(build_backbone("dinov3_convnext_tiny", "none"))
    state = rename(
        backbone.network.state_dict(),
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm\.", "norm."),
    )
    state |= {key.replace("norm.", "norms.3."): value for key, value in state.items() if key.startswith("norm.")}
    torch.save(state, tmp_path / "w.pth")
    assert_same_weights(build_backbone("dinov3_convnext_tiny", tmp_path / "w.pth"), backbone)


def test_other_networks_load_their_own_files_with_a_classifier_in_them(tmp_path):
    network = randomize(timm.create_model("resnet18", num_classes=10))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = build_backbone("timm:resnet18", tmp_path / "w.safetensors")
    assert torch.equal(backbone.network.layer4[1].conv2.weight, network.layer4[1].conv2.weight)


def test_patch_embedding_is_resampled_for_patch_14(tmp_path):
    network = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="patch 16 only"):
        backbone = build_backbone("dinov3_vits14", "none")
    assert "resampled from 16 to 14 pixels" in load_weights(backbone, tmp_path / "w.pth")
    assert torch.equal(backbone.network.norm.weight, network.norm.weight)


def test_shards_by_their_index_or_folder(tiny, tmp_path):
    items = list(tiny.network.state_dict().items())
    shards = {"a.safetensors": dict(items[::2]), "b.safetensors": dict(items[1::2])}
    for name, tensors in shards.items():
        save_file(tensors, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in shards.items() for key in part}}))
    assert_same_weights(build_backbone("dinov3_vitt16", index), tiny)
    assert_same_weights(build_backbone("dinov3_vitt16", tmp_path), tiny)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(DefectError, match="not found: .*b.safetensors"):
        build_backbone("dinov3_vitt16", tmp_path)


# --- files that do not fit


def test_a_file_of_another_backbone_is_named(tmp_path):
    torch.save(meta_vit(build_backbone("dinov3_vits16", "none").network), tmp_path / "w.pth")
    with pytest.raises(DefectError) as caught:
        build_backbone("dinov3_vitt16", tmp_path / "w.pth")
    text = str(caught.value)
    assert "(Meta layout) does not fit dinov3_vitt16" in text
    assert "cls_token (1, 1, 384), not (1, 1, 192)" in text
    assert text.endswith("The file holds dinov3_vits16: use --backbone dinov3_vits16.")


def test_a_convnext_file_for_a_vit(tmp_path):
    torch.save(build_backbone("dinov3_convnext_tiny", "none").network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(DefectError, match="use --backbone dinov3_convnext_tiny"):
        build_backbone("dinov3_vitt16", tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("norm.weight"), "1 missing: norm.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "1 surplus: extra"),
        (lambda state: state.pop("blocks.3.attn.q_bias"), "1 missing: blocks.3.attn.q_bias"),
        (
            lambda state: [state.pop(f"blocks.{i}.gamma_1") for i in range(12)],
            "12 missing: blocks.0.gamma_1, ",
        ),
        (lambda state: state.clear(), "missing: cls_token"),
        (lambda state: state["norm.weight"].fill_(torch.nan), "1 not finite: norm.weight"),
        (lambda state: state.update({"norm.bias": torch.ones(192, dtype=torch.int8)}), "1 of whole numbers: norm.bias"),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.ones(192, 3, 256)}),
            "1 of another shape: patch_embed.proj.weight (192, 3, 256)",
        ),
        (lambda state: state.update({"module.norm.bias": torch.ones(192)}), "norm.bias is in it twice"),
    ],
    ids="missing,surplus,one bias,many,nothing,nan,int8,another rank,two sets".split(","),
)
def test_missing_and_surplus_tensors_are_named(tiny, tmp_path, change, expected):
    state = {key: value.clone() for key, value in tiny.network.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DefectError) as caught:
        build_backbone("dinov3_vitt16", tmp_path / "w.pth")
    assert expected in str(caught.value) and "w.pth" in str(caught.value)
