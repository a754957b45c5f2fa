"""What ``accuracy.py`` compares: variants of this project's model and its training, and peers."""

from __future__ import annotations

from dataclasses import replace

from accuracy_models import FINETUNE, FROZEN, THREE_STAGES, TWO_STAGES, Stage, Variant

VARIANTS = {
    "guided": Variant("attention-guided: the default"),
    "no_fusion": Variant(
        "the same without score fusion: the classifier's verdict alone", options={"score_fusion": False}
    ),
    "dual_branch": Variant("the same without a link from mask to class", options={"guidance": "none"}),
    "class_trains_decoder": Variant("the class loss goes through all of the decoder", class_trains_decoder=1.0),
    "masks_train_decoder": Variant("it ends before the decoder, however few masks there are", class_trains_decoder=0.0),
    "progressive": Variant(
        "dual branch that learns masks first, then classes",
        (
            Stage(1 / 8, frozen=True, weights="fixed", alpha=0.0, beta=1.0),
            Stage(3 / 8, weights="fixed", alpha=0.0, beta=1.0),
            Stage(4 / 8, weights="fixed", alpha=1.0, beta=0.3),
        ),
        {"guidance": "none"},
    ),
    "unfrozen_batch_norm": Variant("the backbone's BatchNorms follow the batches", freeze_batch_norm=False),
    "faster_backbone": Variant(
        "the backbone at half the heads' rate",
        (FROZEN, replace(FINETUNE, backbone_lr_scale=0.5), replace(THREE_STAGES[2], backbone_lr_scale=0.5)),
    ),
    "slower_backbone": Variant(
        "the backbone at a tenth of the heads' rate",
        (FROZEN, replace(FINETUNE, backbone_lr_scale=0.1), replace(THREE_STAGES[2], backbone_lr_scale=0.1)),
    ),
    "frozen": Variant("the backbone never trains", (Stage(1.0, frozen=True, weights="fixed"),)),
    "frozen_dual_branch": Variant(
        "nor does it here, without guidance", (Stage(1.0, frozen=True, weights="fixed"),), {"guidance": "none"}
    ),
    "multiscale_decoder": Variant("mask at stride 4", options={"decoder": "multiscale"}),
    "light_decoder": Variant("one mask value per patch", options={"decoder": "light"}),
    "two_stages": Variant("no third stage, fixed weights", TWO_STAGES),
    "one_stage": Variant("everything trains from the start, fixed weights", (Stage(1.0, weights="fixed"),)),
    "no_paste": Variant("no defects pasted onto good images", paste_defects=0.0),
    "unet": Variant("U-Net with a class head on the encoder", TWO_STAGES, peer="Unet"),
    "unet_unfrozen_batch_norm": Variant(
        "the same, BatchNorms follow the batches", TWO_STAGES, freeze_batch_norm=False, peer="Unet"
    ),
    "unet_three_stages": Variant("U-Net in the default's three stages", peer="Unet"),
    "fpn": Variant("FPN with a class head on the encoder", TWO_STAGES, peer="FPN"),
    "dpt": Variant("DPT with a class head on the encoder, for a ViT", TWO_STAGES, peer="DPT"),
}
