"""What training_speed.py prints of its measurements: rates, their ratios, memory, and the chip's share."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from training_runs import BARE, FINE, FROZEN, SMP, Run

from dinov3.train.defect_memory import GIB

# (numerator, denominator): the least ratio of their rates that this project aims at. The first is meant for ViT-B at
# 512 pixels on a GPU.
AIMS = {(FINE, BARE): 0.90, (FROZEN, FINE): 2.5, (FINE, SMP): 1.0}
ROWS = {"bare": BARE, "fine": FINE, "frozen": FROZEN, "smp": SMP}


@dataclass
class Row:
    """One thing that is measured."""

    run: Run | None = None
    peak: int | None = None  # bytes; None where they are not counted
    flop: int | None = None  # of a step
    note: str = ""  # why there are no figures
    rates: list[float] = field(default_factory=list)  # images per second, by round


def ratio(rows: dict[str, Row], above: str, below: str) -> float | None:
    """Median of the ratios within a round, as the machine's speed drifts between rounds."""
    if above not in rows or below not in rows:
        return None
    pairs = list(zip(rows[above].rates, rows[below].rates, strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def hours(rows: dict[str, Row], images: int, epochs: Sequence[int]) -> float | None:
    """The three stages at the measured rates."""
    if not all(name in rows and rows[name].rates for name in (FROZEN, FINE)):
        return None
    frozen, fine = (statistics.median(rows[name].rates) for name in (FROZEN, FINE))
    return images * (epochs[0] / frozen + (epochs[1] + epochs[2]) / fine) / 3600


def rate(row: Row) -> str:
    """As a table shows it."""
    return f"{statistics.median(row.rates):.3g}" if row.rates else "-"


def gib(size: int | None) -> str:
    """As a table shows it."""
    return "-" if size is None else f"{size / GIB:.1f} GiB"


def figures_of(row: Row, args: argparse.Namespace, limit: float) -> dict[str, Any]:
    """A row as the JSON file has it; ``limit`` is the chip's, in floating-point operations a second."""
    found: dict[str, Any] = {"peak_bytes": row.peak, "note": row.note}
    if row.rates and row.flop:
        found |= {"images_per_second": statistics.median(row.rates), "flop_per_image": row.flop / args.batch_size}
        found["of_matrix_rate"] = found["images_per_second"] * found["flop_per_image"] / limit
    return found


def print_rows(rows: dict[str, Row], args: argparse.Namespace, setting: str, limit: float) -> dict[str, Any]:
    """Print the figures, the aims beside them, and what they mean for a whole schedule; return them."""
    figures = {key: figures_of(rows[name], args, limit) for key, name in ROWS.items() if name in rows}
    print(f"  {'':<24} {'images/s':>8}  peak memory  of the chip's {limit / 1e12:.3g} TFLOP/s")
    for key, found in figures.items():
        row = rows[ROWS[key]]
        text = row.note or f"{found['of_matrix_rate']:.0%}"
        print(f"  {ROWS[key]:<24} {rate(row):>8}  {gib(row.peak):<11}  {text}")
    ratios = {pair: ratio(rows, *pair) for pair in AIMS}
    for (above, below), aim in AIMS.items():
        value = ratios[above, below]
        found = "not measured" if value is None else f"{value:.2f}, {'reached' if value >= aim else 'missed'}"
        print(f"  {above} / {below}: {found} (aim: at least {aim:g})")
    time_needed = hours(rows, args.images, args.epochs)
    if time_needed is not None:
        print(
            f"  {' + '.join(map(str, args.epochs))} epochs of {args.images:,} training images, the first with a frozen "
            f"backbone: {time_needed:.1f} h at these rates, without validation and if loading keeps up"
        )
    if args.table:
        print_table(rows, ratios, time_needed, setting)
    names = {name: key for key, name in ROWS.items()}
    shares = {f"{names[above]}/{names[below]}": value for (above, below), value in ratios.items()}
    return {"setting": setting, "rows": figures, "ratios": shares, "hours": time_needed}


def print_table(
    rows: dict[str, Row], ratios: dict[tuple[str, str], float | None], time_needed: float | None, setting: str
) -> None:
    """The same as a Markdown row."""
    shares = ["-" if value is None else f"{value:.2f}" for value in ratios.values()]
    all_rows = [rows.get(name, Row()) for name in ROWS.values()]
    rates, peaks = [rate(row) for row in all_rows], " / ".join(gib(row.peak) for row in all_rows)
    cells = [setting, rates[0], rates[1], shares[0], rates[2], shares[1], rates[3], shares[2], peaks]
    cells.append("-" if time_needed is None else f"{time_needed:.1f} h")
    print("\n| setting | bare backbone | fine-tuning | of the bare | frozen stage | of fine-tuning | smp ", end="")
    print("| fine-tuning of smp | peak memory, same order | schedule |\n|" + "---|" * len(cells))
    print("| " + " | ".join(cells) + " |")
