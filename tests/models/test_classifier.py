"""The model: shapes, where it looks, and what trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.models.defect_guidance import fuse_scores, pooling_weights


class PatchTokensOnly(nn.Module):
    """A foreign backbone with DINOv3's first method alone."""

    patch_size, embed_dim = 8, 32

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 8, stride=8)

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return {"x_norm_clstoken": tokens.mean(1), "x_norm_patchtokens": tokens}


def make(name: str = "dinov3_vitt16", **options: object) -> AttentionGuidedDefectClassifier:
    torch.manual_seed(0)
    backbone = build_backbone(name, "none")
    return AttentionGuidedDefectClassifier(backbone, backbone.embed_dim, **options)


@pytest.mark.parametrize("name", ["dinov3_vitt16", "dinov3_convnext_tiny", "efficientnet_lite0"])
@pytest.mark.parametrize("decoder", ["full", "multiscale", "light"])
def test_outputs_have_the_promised_shapes_at_any_size(name: str, decoder: str) -> None:
    model = make(name, num_classes=4, seg_channels=3, decoder=decoder).eval()
    for height, width in ((64, 64), (70, 45)):
        with torch.inference_mode():
            out = model(torch.randn(2, 3, height, width), return_attention=True)
        assert out["classification"].shape == (2, 4)
        assert out["segmentation"].shape == (2, 3, height, width)
        assert out["attention_map"].shape == (2, 1, *out["seg_prob"].shape[-2:])
        assert 0 <= out["seg_prob"].min() and out["seg_prob"].max() <= 1
        assert "attention_map" not in model(torch.randn(2, 3, height, width))


def test_the_default_decoder_is_finer_than_a_patch() -> None:
    image = torch.randn(1, 3, 64, 64)
    assert make()(image)["seg_prob"].shape[-2:] == (16, 16)
    assert make(decoder="light")(image)["seg_prob"].shape[-2:] == (4, 4)


def thin_lines(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright diagonal line one pixel wide, and its mask."""
    generator = torch.Generator().manual_seed(seed)
    images, masks = 0.1 * torch.randn(8, 3, 64, 64, generator=generator), torch.zeros(8, 64, 64, dtype=torch.long)
    steps = torch.arange(40)
    for number in range(8):
        y, x = torch.randint(0, 24, (2,), generator=generator).tolist()
        masks[number, y + steps, x + steps] = 1
    return images + 2 * masks[:, None], masks


def test_the_full_decoder_outlines_what_a_quarter_of_the_resolution_loses() -> None:
    found = {}
    for decoder in ("full", "multiscale"):
        model, criterion = make("timm:test_efficientnet", decoder=decoder), MultiTaskLoss()
        model.freeze_backbone()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
        images, masks = thin_lines(0)
        for _ in range(40):
            optimizer.zero_grad()
            criterion(model(images), torch.ones(8, dtype=torch.long), masks)["total_loss"].backward()
            optimizer.step()
        images, masks = thin_lines(1)
        with torch.inference_mode():
            marked = model.eval()(images)["segmentation"][:, 0] > 0
        found[decoder] = ((marked & (masks > 0)).sum() / (marked | (masks > 0)).sum()).item()
    assert found["full"] > 0.5 > 2 * found["multiscale"], found


def test_pooling_sees_the_worst_pixel_of_each_place() -> None:
    model = make(decoder="full").eval()
    with torch.inference_mode():
        out = model(torch.randn(1, 3, 64, 64), return_attention=True)
    prob = out["segmentation"].sigmoid()
    assert torch.equal(out["seg_prob"], torch.nn.functional.max_pool2d(prob, 4)) and out["seg_prob"].shape[-1] == 16


def test_patch_14_pads_inside_and_crops_the_mask() -> None:
    with pytest.warns(UserWarning, match="14"):
        backbone = build_backbone("dinov3_vits14", "none")
    model = AttentionGuidedDefectClassifier(backbone, 384).eval()
    assert model(torch.randn(1, 3, 60, 50))["segmentation"].shape == (1, 1, 60, 50)


def test_a_backbone_with_patch_tokens_only_works() -> None:
    model = AttentionGuidedDefectClassifier(PatchTokensOnly(), embed_dim=32)
    out = model(torch.randn(2, 3, 30, 44))
    assert out["segmentation"].shape == (2, 1, 30, 44)
    out["classification"].sum().backward()
    assert model.backbone.embed.weight.grad is not None


def test_wrong_width_or_choice_names_the_right_one() -> None:
    with pytest.raises(ValueError, match="embed_dim=192"):
        AttentionGuidedDefectClassifier(build_backbone("dinov3_vitt16", "none"), embed_dim=768)
    with pytest.raises(ValueError, match="'mask' or 'none'"):
        make(guidance="both")
    with pytest.raises(ValueError, match="full, multiscale, light"):
        make(decoder="fancy")


def test_the_classifier_looks_where_the_mask_is() -> None:
    seg_prob = torch.full((1, 2, 20, 20), 1e-5)
    seg_prob[0, 1, 3:5, 7:9] = 1.0  # a hundredth of the image, seen by one defect type
    weights = pooling_weights(seg_prob)
    assert weights.sum() == pytest.approx(1)
    assert weights[0, 0, 3:5, 7:9].sum() > 0.9


def test_a_clean_image_is_pooled_evenly_and_finitely() -> None:
    weights = pooling_weights(torch.zeros(1, 1, 10, 10))
    assert torch.allclose(weights, torch.full_like(weights, 0.01))
    model = make().eval()
    nn.init.constant_(model.decoder.head.bias, -200.0)  # not a trace of a mask
    assert model(torch.zeros(1, 3, 64, 64))["classification"].isfinite().all()


def test_guidance_carries_the_mask_to_the_class_and_none_does_not() -> None:
    image = torch.randn(1, 3, 64, 64)
    for guidance, carried in (("mask", True), ("none", False)):
        model = make(guidance=guidance, score_fusion=False).eval()  # the pooling alone is a link
        before = model(image)["classification"]
        nn.init.normal_(model.decoder.head.weight)  # another mask
        assert torch.equal(model(image)["classification"], before) != carried


def test_the_class_trains_the_decoder_as_far_as_it_is_let_in() -> None:
    model, image = make(dropout=0.0), torch.randn(2, 3, 64, 64)
    found = {}
    for share in (0.0, 0.5, 1.0):
        model.class_trains_decoder = share
        model.zero_grad()
        logits = model(image)["classification"]
        logits.sum().backward()
        found[share] = (logits.detach(), torch.cat([p.grad.flatten() for p in model.decoder.parameters()]))
        assert any(parameter.grad is not None for parameter in model.backbone.parameters())
    assert not found[0.0][1].any() and found[1.0][1].any()
    torch.testing.assert_close(2 * found[0.5][1], found[1.0][1])
    assert torch.equal(found[0.0][0], found[1.0][0])  # what it learns is let in or not, the answer is the same


def test_the_fused_score_is_the_mean_of_classifier_and_mask() -> None:
    head = torch.tensor([[1.0, 0.5, 2.0], [3.0, -1.0, 0.0]])  # normal and two types of defect
    masks = torch.full((2, 1, 8, 8), -9.0)
    masks[0, 0, 2, 2] = 5.0
    fused_logits = fuse_scores(head, masks)
    defective = torch.logit(1 - fused_logits.softmax(1)[:, 0])
    alone = torch.logit(1 - head.softmax(1)[:, 0])
    assert torch.allclose(defective, (alone + torch.tensor([5.0, -9.0])) / 2, atol=1e-5)
    assert torch.allclose(
        fused_logits[:, 2] - fused_logits[:, 1], head[:, 2] - head[:, 1]
    )  # which type: the head alone


def test_scores_are_fused_when_the_model_predicts_and_not_while_it_learns() -> None:
    image, mark = torch.randn(2, 3, 64, 64), {}
    for fused in (True, False):
        model = make("efficientnet_lite0", score_fusion=fused).eval()
        nn.init.constant_(model.decoder.head.bias, -6.0)
        before = model(image)["classification"].softmax(1)[:, 1]
        nn.init.constant_(model.decoder.head.bias, 6.0)  # a mask all over
        mark[fused] = (model(image)["classification"].softmax(1)[:, 1] - before).mean().item()
    assert mark[True] > 0.5 and abs(mark[False]) < 0.05
    trained = {}
    for fused in (True, False):
        model = make("efficientnet_lite0", score_fusion=fused, dropout=0.0).train()
        trained[fused] = model(image)["classification"]
    assert torch.equal(trained[True], trained[False])


def test_a_frozen_backbone_stays_frozen_through_training() -> None:
    model = make("efficientnet_lite0")
    model.freeze_backbone()
    model.train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(torch.randn(2, 3, 64, 64))["classification"].square().sum().backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    model.freeze_backbone(False)
    model.train()
    model(torch.randn(2, 3, 64, 64))["classification"].sum().backward()
    after = model.backbone.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())  # norm statistics move again
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
