"""The rows of RESULTS.md that gpu_check.py fills, made from the figures of its parts.

Only the standard library here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30
TRAINING, INSPECTION, LOADING = "What training costs", "What inspection costs", "What loading costs"
HEADS, LIMIT, ACCURACY = "What the heads cost", "Of the chip's own limit", "On a GPU: 320 pixels, 30 epochs"
NETWORKS = {"guided": "default", "dual_branch": "dual branch", "unet": "U-Net", "fpn": "FPN"}
DATA = {"accuracy_solar_cells": "solar cells", "accuracy_tiles": "magnetic tiles"}
VITS = {"vits": "ViT-S/16", "vitb": "ViT-B/16", "vitl": "ViT-L/16"}
# Parts of gpu_check.py with other number formats, and as what their rows are known.
FORMATS = {"512": "bf16", "fp16": "fp16", "compiled": "bf16, compiled", "fp16_compiled": "fp16, compiled"}


@dataclass(frozen=True)
class Row:
    """A row of RESULTS.md: the heading it stands under, its first cell, and the others by a pattern that finds their
    column's name (lower case, without what is in brackets); empty where there is no figure."""

    section: str
    label: str
    cells: dict[str, str]


class Figures:
    """Nested figures that may be missing anywhere; ``format`` of what is missing is empty."""

    def __init__(self, value: Any):
        self.value = value

    def at(self, *keys: Any) -> Figures:
        """What is under ``keys``."""
        value = self.value
        for key in keys:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return Figures(None)
        return Figures(value)

    def format(self, form: str, factor: float = 1) -> str:
        """As text, times ``factor``."""
        if self.value is None:
            return ""
        return form.format(self.value if isinstance(self.value, str) else self.value * factor)


def joined(separator: str, *texts: str) -> str:
    """All ``texts``, or nothing if one of them is missing."""
    return separator.join(texts) if all(texts) else ""


def list_rows(report: dict[str, Any]) -> list[Row]:
    """All rows, whether or not their figures are there."""
    parts = {row["name"]: Figures(row["figures"]) for row in report["parts"]}

    def part(name: str) -> Figures:
        return parts.get(name, Figures(None))

    return [
        *heads(part("head_cost"), "bf16"),
        *heads(part("head_cost_fp16"), "fp16"),
        *heads(part("head_cost_compiled"), "bf16, compiled"),
        training("GPU: ViT-B/16, 512 px, batch 16 (smp: DPT)", part("training_512")),
        training("GPU: ViT-B/16, 518 px, batch 16 (smp: DPT at 544 px)", part("training_518")),
        *memory(part("memory")),
        *(inspection(f"GPU: {name}, 518 px, random weights", part(f"inspection_{key}")) for key, name in VITS.items()),
        *(
            inspection(f"GPU: ViT-B/16, 518 px, {name}", part(f"inspection_{key}"))
            for key, name in FORMATS.items()
            if key != "512"
        ),
        *loading(part("loading"), part("training_512")),
        *chip(part),
        *(row for key, name in DATA.items() for row in accuracy(name, part(key))),
    ]


def heads(figures: Figures, form: str) -> list[Row]:
    """What decoder, classifier and novelty add to the backbone, for each batch size."""
    rows = []
    for batch in ("1", "16"):
        found = figures.at("batches", batch)
        patterns = {
            "multiscale decoder": "multiscale",
            "full decoder": "full",
            "score fusion": "no fusion",
            "novelty": "novelty",
        }
        cells = {pattern: found.at(name, "added").format("{:+.1%}") for pattern, name in patterns.items()}
        cells |= {"light": found.at("light", "added").format("{:+.1%}")}
        cells |= {"^backbone$": found.at("backbone", "milliseconds").format("{:.3g} ms")}
        rows.append(Row(HEADS, f"GPU: ViT-B/16, 512 px, batch {batch}, {form}", cells))
    return rows


def training(label: str, figures: Figures) -> Row:
    """Rates, their ratios, and the schedule."""
    rows = figures.at("rows")
    cells = {"^bare backbone$": rows.at("bare", "images_per_second").format("{:.3g}")}
    cells |= {"^fine-tuning$": rows.at("fine", "images_per_second").format("{:.3g}")}
    cells |= {"^frozen stage$": rows.at("frozen", "images_per_second").format("{:.3g}")}
    smp = rows.at("smp")
    cells |= {"^smp$": smp.at("images_per_second").format("{:.3g}") or smp.at("note").format("{}")}
    cells |= {"^of the bare": figures.at("ratios", "fine/bare").format("{:.2f}")}
    cells |= {"^of fine-tuning": figures.at("ratios", "frozen/fine").format("{:.2f}")}
    cells |= {"^fine-tuning of smp": figures.at("ratios", "fine/smp").format("{:.2f}")}
    peaks = [rows.at(name, "peak_bytes").format("{:.1f}", 1 / GIB) for name in ("bare", "fine", "frozen", "smp")]
    cells |= {"^peak memory": joined(" / ", *peaks) and joined(" / ", *peaks) + " GiB"}
    cells |= {"10 ?000 images": figures.at("hours").format("{:.1f} h")}
    return Row(TRAINING, label, cells)


def memory(figures: Figures) -> list[Row]:
    """Peak memory of fine-tuning against its budget."""
    labels = ["GPU: ViT-S/16, batch 32", "GPU: ViT-B/16, batch 16", "GPU: ViT-L/16, batch 8 (activation checkpointing)"]
    rows = []
    for number, label in enumerate(labels):
        found = figures.at("budgets", number)
        cells = {"^peak$": found.at("peak_bytes").format("{:.1f} GiB", 1 / GIB), "^$": found.at("verdict").format("{}")}
        cells |= {"reserve": found.at("reserved_bytes").format("{:.1f} GiB", 1 / GIB)}
        rows.append(Row(TRAINING, label, cells))
    return rows


def inspection(label: str, figures: Figures) -> Row:
    """The script beside the bare backbone, and single images."""
    rows = figures.at("rows")

    def script(name: str) -> str:
        rate, share = (rows.at(name, key) for key in ("images_per_second", "of_backbone"))
        return joined(", ", rate.format("{:.1f} images/s"), share.format("{:.2f}"))

    latency = figures.at("latency_ms")
    cells = {
        "^bare backbone": rows.at("backbone", "images_per_second").format("{:.1f} images/s"),
        "^whole network": rows.at("network", "of_backbone").format("{:.2f} of it"),
        "no pictures": script("script, no pictures"),
        "with pictures": script("script, with pictures"),
        "one image": joined(", ", latency.at(0).format("{:.1f} ms"), latency.at(1).format("{:.1f} ms")),
    }
    return Row(INSPECTION, label, cells)


def loading(figures: Figures, training: Figures) -> list[Row]:
    """What the loader delivers beside what the GPU takes."""
    rows = []
    eats = training.at("rows", "fine", "images_per_second")
    for number, label in enumerate(("GPU: 1 MP JPEG", "GPU: 5 MP JPEG")):
        found = figures.at("files", number)
        delivers = found.at("images_per_second")
        keeps_up = None
        if delivers.value and eats.value:
            keeps_up = f"{delivers.value / eats.value:.2f}"
        cells = {
            "^loader": delivers.format("{:.0f} images/s"),
            "^fine-tuning takes": eats.format("{:.0f} images/s"),
            "^of it": keeps_up or "",
            "decoded on the gpu": found.at("gpu_decode_images_per_second").format("{:.0f} images/s"),
            "cache": found.at("cached_images_per_second").format("{:.0f} images/s"),
        }
        rows.append(Row(LOADING, label, cells))
    return rows


def chip(part: Any) -> list[Row]:
    """How much of the rate of large matrix products each setting reaches."""
    rates = part("machine").at("matrix_rate")
    names = {"bf16": "bf16", "fp16": "fp16", "tf32": "tf32", "float32": "off"}
    cells = {f"^{name}$": rates.at(key).format("{:.0f} TFLOP/s", 1e-12) for name, key in names.items()}
    rows = [Row(LIMIT, "GPU: product of two 8192 x 8192 matrices", cells)]

    def row(label: str, found: Figures) -> None:
        cells = {"^images": found.at("images_per_second").format("{:.3g}")}
        cells |= {"flop per image": found.at("flop_per_image").format("{:.3g} TFLOP", 1e-12)}
        rows.append(Row(LIMIT, f"GPU: {label}", cells | {"matrix rate": found.at("of_matrix_rate").format("{:.0%}")}))

    stages = {"bare": "bare backbone", "fine": "fine-tuning", "frozen": "frozen stage", "smp": "DPT"}
    for key, form in FORMATS.items():
        for stage, name in stages.items() if key == "512" else list(stages.items())[:2]:
            row(f"training ViT-B/16, 512 px, {form}, {name}", part(f"training_{key}").at("rows", stage))
    for stage in ("bare", "fine"):
        found = part("training_518").at("rows", stage)
        row(f"training ViT-B/16, 518 px, bf16, {stages[stage]}", found)
    for number, name in enumerate(("ViT-S/16, batch 32", "ViT-L/16, batch 8, activation checkpointing")):
        row(f"training {name}, 518 px, bf16, fine-tuning", part("memory").at("budgets", 2 * number))
    inspections = {key: f"{name}, 518 px, bf16" for key, name in VITS.items()}
    inspections |= {key: f"ViT-B/16, 518 px, {form}" for key, form in FORMATS.items() if key != "512"}
    for key, form in inspections.items():
        for name, label in (("backbone", "bare backbone"), ("network", "whole network")):
            row(f"inspection {form}, {label}", part(f"inspection_{key}").at("rows", name))
    for batch in ("1", "16"):
        for name, label in (("backbone", "bare backbone"), ("full", "whole network")):
            row(f"forward ViT-B/16, 512 px, batch {batch}, bf16, {label}", part("head_cost").at("batches", batch, name))
    return rows


def accuracy(data: str, figures: Figures) -> list[Row]:
    """Means over the runs, and the default minus each other network."""
    rows = []
    columns = {"^image ap": "image AP", "^accuracy": "accuracy", "^pixel iou": "pixel IoU"}
    columns |= {"iou per defect image": "IoU per defect image"}
    for kind, text in (("means", ""), ("differences", "default minus ")):
        for key, name in NETWORKS.items():
            if kind == "differences" and key == "guided":
                continue
            found = figures.at(kind, key)
            cells = {pattern: found.at(metric).format("{}") for pattern, metric in columns.items()}
            rows.append(Row(ACCURACY, f"GPU: {data}, {text}{name}", cells | {"^runs$": found.at("runs").format("{}")}))
    return rows
