"""Images per second and peak memory of training, beside the bare backbone and segmentation-models-pytorch (smp).

python benchmarks/training_speed.py --backbone dinov3_vitb16 --image_size 512 --batch_size 16
python benchmarks/training_speed.py --reference          # does each reference setting keep to its memory budget?

Data are synthetic and on the device already, so loading is not part of it (benchmarks/data_loading.py measures that).
Flags of examples/train_defect_model.py about model, loss and fine-tuning may be added, such as --decoder light.
"""

from __future__ import annotations

import argparse
import gc
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from chip import count_flop, matrix_rate, synchronize, write_json
from training_report import ROWS, Row, figures_of, gib, print_rows, rate
from training_runs import (
    FINE,
    SMP_MULTIPLE,
    NotPossibleError,
    Run,
    builders,
    our_run,
    round_up,
    training_config,
)

from dinov3.defect_cli import non_negative_int, positive_int
from dinov3.defect_errors import DefectError, run_script
from dinov3.models.defect_device import Precision, resolve_device, resolve_precision
from dinov3.train.defect_memory import GIB, is_out_of_memory

# Backbone, batch size, GiB at 518 pixels.
REFERENCE = ["dinov3_vits16:32:8", "dinov3_vitb16:16:16", "dinov3_vitl16:8:32"]
WARM_UP = 3  # steps


def build_parser() -> argparse.ArgumentParser:
    """The flags of this script; the rest are those of training."""
    # Abbreviations would swallow flags that are meant for training.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--backbone", default="dinov3_vitb16")
    add("--image_size", type=positive_int, help="default: 512, and 518 for --reference")
    add("--batch_size", type=positive_int, default=16)
    precisions = ("auto", "bf16", "fp16", "tf32", "off")
    add("--mixed_precision", nargs="?", const="auto", default="auto", choices=precisions, help="as in training")
    add("--compile", action="store_true", help="compile all that is compared")
    add("--device", default="auto")
    add("--rounds", type=positive_int, default=9, help="each times everything once; the median counts")
    add("--steps", type=positive_int, default=10, help="training steps per round and row")
    add(
        "--processor_time",
        action="store_true",
        help="count processor time, all threads together, instead of wall time: for a CPU that is busy otherwise",
    )
    add("--images", type=positive_int, default=10_000, help="training images of the schedule to estimate")
    add(
        "--epochs",
        type=non_negative_int,
        nargs=3,
        default=[30, 70, 20],
        metavar=("FROZEN", "FINE", "LAST"),
        help="epochs of its three stages",
    )
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to compare (default: everything)")
    add("--table", action="store_true", help="print Markdown rows, too")
    add("--json", type=Path, help="write the figures to this file, too")
    add(
        "--reference",
        nargs="*",
        metavar="BACKBONE:BATCH:GIB",
        help=f"only measure the peak memory of fine-tuning against a budget (default: {' '.join(REFERENCE)})",
    )
    return parser


def start(build: Callable[[], Run], device: torch.device) -> Row:
    """Build, warm up, and note operations and peak memory, which is the row's own as the others rest meanwhile."""
    row, before = Row(), 0
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    try:
        row.run = build()
        row.run(WARM_UP)
        synchronize(device)
    except NotPossibleError as error:
        row.note = str(error)
    if row.run is not None and device.type == "cuda":
        row.peak = torch.cuda.max_memory_allocated(device) - before
    if row.run is not None:
        row.flop = count_flop(lambda: row.run(1))
    return row


def give_up(row: Row, error: RuntimeError) -> None:
    """Take ``row`` out after it ran out of memory; other errors go on."""
    if not is_out_of_memory(error):
        raise error
    row.run, row.peak, row.note, row.rates = None, None, "out of memory", []


def free_memory(device: torch.device) -> None:
    """Hand what nothing refers to any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure(build: dict[str, Callable[[], Run]], args: argparse.Namespace, device: torch.device) -> dict[str, Row]:
    """Rates of all rows, round by round, and the peak memory of each; one that runs out of memory leaves the others."""
    clock = time.process_time if args.processor_time else time.perf_counter
    rows = {}
    for name, one in build.items():
        rows[name] = Row()
        try:
            rows[name] = start(one, device)
        except RuntimeError as error:
            give_up(rows[name], error)
        free_memory(device)
    for number in range(args.rounds):
        for name in list(rows)[:: -1 if number % 2 else 1]:  # in turn first and last
            row = rows[name]
            if row.run is None:
                continue
            synchronize(device)
            begin = clock()
            try:
                row.run(args.steps)
                synchronize(device)
                row.rates.append(args.batch_size * args.steps / (clock() - begin))
            except RuntimeError as error:
                give_up(row, error)
            if row.run is None:
                free_memory(device)
    return rows


def budget(text: str) -> tuple[str, int, float]:
    """Backbone, batch size and GiB of ``BACKBONE:BATCH:GIB``."""
    try:
        backbone, batch, size = text.rsplit(":", 2)
        return backbone, int(batch), float(size)
    except ValueError:
        raise DefectError(f"--reference {text}: expected BACKBONE:BATCH:GIB, such as {REFERENCE[0]}") from None


def compare_budgets(
    args: argparse.Namespace, extra: Sequence[str], precision: Precision, limit: float
) -> list[dict[str, Any]]:
    """Print the peak memory of fine-tuning, alone on the device, for each reference setting; return the figures."""
    device, lines, figures = precision.device, [], []
    for backbone, batch, size in [budget(text) for text in args.reference or REFERENCE]:
        args.backbone, args.batch_size = backbone, batch
        config, reserved = training_config(args, extra), None
        build = {FINE: lambda config=config: our_run(config, precision, args.compile)}
        row = measure(build, args, device)[FINE]
        if row.peak is not None:
            reserved = torch.cuda.max_memory_reserved(device)
        verdict = row.note or ("memory is counted on CUDA only" if reserved is None else "")
        verdict = verdict or ("fits" if reserved <= size * GIB else "does not fit")
        figures.append(figures_of(row, args, limit) | {"reserved_bytes": reserved, "verdict": verdict})
        figures[-1] |= {"backbone": backbone, "batch_size": batch, "budget_gib": size}
        cells = [f"{backbone}, {args.image_size} px, batch {batch}", rate(row), gib(row.peak), gib(reserved)]
        lines.append("| " + " | ".join([*cells, f"{size:g} GiB", verdict]) + " |")
        print(f"  {cells[0]}: {cells[1]} images/s; peak {cells[2]}, with the allocator's reserve {cells[3]}, ", end="")
        print(f"of {size:g} GiB: {verdict}", flush=True)
        write_json(args.json, {"budgets": figures})
        del build, row
        free_memory(device)
    if args.table:
        print("\n| setting | images/s | peak | with the allocator's reserve | budget | |\n|" + "---|" * 6)
        print("\n".join(lines))
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args, extra = build_parser().parse_known_args(argv)
    args.image_size = args.image_size or (512 if args.reference is None else 518)
    device = resolve_device(args.device)
    if args.processor_time and device.type != "cpu":
        raise DefectError(f"--processor_time: does not count the work of {device.type}; leave it out")
    precision = resolve_precision(args.mixed_precision, device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
    number = str(precision.dtype or torch.float32).removeprefix("torch.")
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {number}", end="")
    print(", compiled" * args.compile + ", by processor time" * args.processor_time)
    limit = matrix_rate(precision)
    free_memory(device)
    if args.reference is not None:
        figures = {"budgets": compare_budgets(args, extra, precision, limit)}
    else:
        figures = compare(args, extra, precision, limit)
    write_json(args.json, figures | {"number_format": number, "compiled": args.compile, "matrix_rate": limit})
    return 0


def compare(args: argparse.Namespace, extra: Sequence[str], precision: Precision, limit: float) -> dict[str, Any]:
    """Measure what ``--rows`` names side by side, and print it; return the figures."""
    setting = f"{args.backbone}, {args.image_size} px, batch {args.batch_size}"
    smp_size = round_up(args.image_size, SMP_MULTIPLE)
    print(setting + (f" (smp: {smp_size} px, the next multiple it takes)" if smp_size != args.image_size else ""))
    build = builders(args, extra, precision)
    rows = measure({ROWS[key]: build[ROWS[key]] for key in args.rows}, args, precision.device)
    return print_rows(rows, args, setting, limit)


if __name__ == "__main__":
    run_script(main)
