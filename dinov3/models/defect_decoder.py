"""Mask decoders: they turn a backbone's feature maps into a mask map and a feature map.

Shapes: B batch, S mask channels, C decoder channels, H x W the (padded) input, h x w the grid of the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DecoderName = Literal["full", "multiscale", "light"]


@dataclass(frozen=True)
class FeatureLevel:
    """One feature map that the decoder reads: where it is taken, how wide it is, how coarse it is."""

    index: int  # depth for get_intermediate_layers; -1 where the backbone has forward_features only
    channels: int
    stride: int  # input pixels per cell


def feature_levels(backbone: nn.Module, embed_dim: int, decoder: DecoderName) -> list[FeatureLevel]:
    """The maps to take from ``backbone``, shallow to deep.

    A pyramid (``embed_dims`` present, as in DINOv3's ConvNeXt) gives all its stages, those above stride 4 to the full
    decoder alone; a ViT gives four evenly spaced blocks, the last one included, as DINOv3's dense heads do; any other
    module gives its patch tokens. The light decoder reads the deepest map alone.
    """
    patch = getattr(backbone, "patch_size", None)
    if not hasattr(backbone, "get_intermediate_layers"):
        return [FeatureLevel(-1, embed_dim, patch or 16)]
    if hasattr(backbone, "embed_dims"):
        dims = list(backbone.embed_dims)
        strides = getattr(backbone, "strides", [4 * 2**i for i in range(len(dims))])
        levels = [FeatureLevel(i, c, s) for i, (c, s) in enumerate(zip(dims, strides, strict=True))]
    else:
        depth = getattr(backbone, "n_blocks", None) or len(backbone.blocks)
        indices = sorted({max(depth * k // 4 - 1, 0) for k in (1, 2, 3, 4)})
        levels = [FeatureLevel(i, embed_dim, patch) for i in indices]
    if decoder == "light":
        return levels[-1:]
    return [level for level in levels if level.stride >= (2 if decoder == "full" else 4)]


def conv_norm_act(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, act: type[nn.Module] = nn.GELU
) -> nn.Sequential:
    """Convolution, BatchNorm, activation.

    BatchNorm because its statistics are the dataset's when it predicts: a norm over one image alone (GroupNorm, or
    LayerNorm per position) blows up the noise of a clean surface and levels out a defect that covers much of the image.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        act(),
    )


def mask_head(channels: int, seg_channels: int) -> nn.Conv2d:
    """1x1 head whose bias starts at a 1% defect rate: a new model predicts 'clean' instead of 'half defective',
    so the first steps are not spent on unlearning that (the prior of Lin et al. 2017, arXiv 1708.02002)."""
    head = nn.Conv2d(channels, seg_channels, 1)
    nn.init.constant_(head.bias, -4.6)
    return head


class FullDecoder(nn.Module):
    """Mask at full resolution, so that a crack of two pixels keeps its outline.

    Maps are joined from coarse to fine and decoded by two convolutions at each stride, as in U-Net (Ronneberger et al.
    2015, arXiv 1505.04597), down to the image itself. At stride 2 it reads the backbone's map, where a ConvNet has one,
    and a convolution of the image; what a ViT's patches have averaged away comes from there. The class is pooled from
    the features at stride 4.
    """

    WIDTHS = {1: 16, 2: 32, 4: 64, 8: 96, 16: 128}  # channels up to this stride; beyond, 192

    def __init__(self, levels: list[FeatureLevel], seg_channels: int):
        super().__init__()
        self.channels = self.WIDTHS[4]
        stem_channels = self.WIDTHS[1]
        self.stem = conv_norm_act(3, stem_channels, stride=2, act=nn.ReLU)
        self.level_strides = [level.stride for level in levels]
        by_stride = {8: 0, 4: 0, 2: stem_channels, 1: 3}
        for level in levels:
            by_stride[level.stride] = by_stride.get(level.stride, 0) + level.channels
        self.strides = sorted(by_stride, reverse=True)
        self.lateral, self.blocks = nn.ModuleDict(), nn.ModuleDict()
        coarser = 0
        for stride in self.strides:
            width, given = self.width(stride), by_stride[stride]
            if given > width:
                self.lateral[str(stride)] = conv_norm_act(given, width, kernel=1, act=nn.ReLU)
                given = width
            self.blocks[str(stride)] = nn.Sequential(
                conv_norm_act(coarser + given, width, act=nn.ReLU), conv_norm_act(width, width, act=nn.ReLU)
            )
            coarser = width
        self.head = nn.Conv2d(self.WIDTHS[1], seg_channels, 3, padding=1)

    @classmethod
    def width(cls, stride: int) -> int:
        """Channels at ``stride``."""
        return next((width for limit, width in cls.WIDTHS.items() if stride <= limit), 192)

    def forward(self, images: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            images: (B, 3, H, W), padded to the backbone's multiple.
            maps: one (B, c, h', w') per feature level, shallow to deep.

        Returns:
            mask logits (B, S, H, W) and features (B, C, h, w), h = ceil(H / 4), w = ceil(W / 4).
        """
        height, width = images.shape[-2:]
        x, features = images.new_zeros(0), images.new_zeros(0)
        for stride in self.strides:
            parts = [m for m, s in zip(maps, self.level_strides, strict=True) if s == stride]
            parts += [self.stem(images)] if stride == 2 else [images] if stride == 1 else []
            size = parts[0].shape[-2:] if parts else (-(-height // stride), -(-width // stride))
            if str(stride) in self.lateral:
                parts = [self.lateral[str(stride)](torch.cat(parts, dim=1))]
            if stride != self.strides[0]:
                parts.insert(0, F.interpolate(x, size, mode="nearest"))
            x = self.blocks[str(stride)](torch.cat(parts, dim=1))
            features = x if stride == 4 else features
        return self.head(x), features


class LightDecoder(nn.Module):
    """One mask value per cell of the deepest map: the cheapest decoder, too coarse for defects below a patch."""

    def __init__(self, levels: list[FeatureLevel], seg_channels: int, channels: int = 128):
        super().__init__()
        self.channels = channels
        self.project = conv_norm_act(levels[-1].channels, channels, kernel=1)
        self.head = mask_head(channels, seg_channels)

    def forward(self, images: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As :meth:`FullDecoder.forward`; both are (h, w), the deepest map's size."""
        features = self.project(maps[-1])
        return self.head(features), features


class MultiscaleDecoder(nn.Module):
    """Mask at stride 4 from several depths and a thin convolutional stem on the image itself.

    Maps are merged from coarse to fine as in a feature pyramid (Lin et al. 2017, arXiv 1612.03144); a ViT's maps,
    all of one stride, are merged at that stride and then refined to 8 and 4. The stem sees the full resolution,
    which a 16-pixel patch has averaged away, so that a defect smaller than a patch keeps its outline.
    """

    def __init__(self, levels: list[FeatureLevel], seg_channels: int, channels: int = 64, stem_channels: int = 32):
        super().__init__()
        self.channels = channels
        self.stem = nn.Sequential(
            conv_norm_act(3, stem_channels // 2, stride=2),
            conv_norm_act(stem_channels // 2, stem_channels, stride=2),
        )
        by_stride: dict[int, int] = {}
        for level in levels:
            by_stride[level.stride] = by_stride.get(level.stride, 0) + level.channels
        by_stride[4] = by_stride.get(4, 0) + stem_channels
        if max(by_stride) > 8:
            by_stride.setdefault(8, 0)
        self.strides = sorted(by_stride, reverse=True)
        self.level_strides = [level.stride for level in levels]
        # Each merge starts with a norm, as maps of different depth differ in scale.
        self.lateral = nn.ModuleDict(
            {str(s): conv_norm_act(width, channels, kernel=1) for s, width in by_stride.items() if width}
        )
        self.smooth = nn.ModuleDict({str(s): conv_norm_act(channels, channels) for s in self.strides})
        self.head = mask_head(channels, seg_channels)

    def forward(self, images: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As :meth:`FullDecoder.forward`, but for the mask logits: (B, S, h, w), too."""
        height, width = images.shape[-2:]
        x = None
        for stride in self.strides:
            parts = [m for m, s in zip(maps, self.level_strides, strict=True) if s == stride]
            if stride == 4:
                stem = self.stem(images)
                parts = [F.interpolate(p, stem.shape[-2:], mode="bilinear") for p in parts] + [stem]
            size = parts[0].shape[-2:] if parts else (-(-height // stride), -(-width // stride))
            if x is not None:
                x = F.interpolate(x, size, mode="bilinear")
            if parts:
                lateral = self.lateral[str(stride)](torch.cat(parts, dim=1))  # (B, C, h', w')
                x = lateral if x is None else x + lateral
            x = self.smooth[str(stride)](x)
        return self.head(x), x


def build_decoder(name: DecoderName, levels: list[FeatureLevel], seg_channels: int) -> nn.Module:
    """The decoder called ``name``; ``decoder.channels`` is its feature width."""
    decoders = {"full": FullDecoder, "multiscale": MultiscaleDecoder, "light": LightDecoder}
    if name not in decoders:
        raise ValueError(f"decoder is {name!r}; expected one of {', '.join(decoders)}")
    return decoders[name](levels, seg_channels)
