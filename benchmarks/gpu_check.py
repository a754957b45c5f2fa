"""All that needs a GPU, in one run that ends in time; and its figures put into RESULTS.md.

bash benchmarks/gpu_check.sh --minutes 9 --out DIR --wheels gpu-pack/wheels --data gpu-pack/data
bash benchmarks/gpu_check.sh --dry_run                   # every part at tiny sizes on a CPU: under 5 minutes
python benchmarks/gpu_check.py --into benchmarks/RESULTS.md DIR/gpu_check.json

Parts run in order of worth, each in a process of its own with a time limit of its own. One that fails or runs out of
time is a row with its error, and the next one runs. DIR gets gpu_check.json (written anew after every part),
gpu_check.md (the rows of RESULTS.md), gpu_check.log (all that the parts printed) and accuracy_runs.zip.
Nothing is installed: the working tree is on PYTHONPATH, and packages that this Python lacks are unpacked from --wheels
into a temporary folder. benchmarks/gpu_pack.sh makes the folders for --wheels and --data.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from gpu_check_packages import missing_wheels

# Only the standard library here: what else there is, is not known yet.
from gpu_check_parts import Part, Place, list_parts
from gpu_check_run import Clock, collect_runs, run_part, write_text
from gpu_check_table import fill, status_table, summary

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/RESULTS.md"


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=9, help="the whole run takes no longer")
    add("--out", type=Path, default=ROOT / "runs/gpu_check/out", help="folder for the report")
    add("--wheels", type=Path, help="folder of wheels: those of packages that this Python lacks are used")
    add("--data", type=Path, help="folder with solar_cells/ and magnetic_tile/ (default: $DEFECT_DATA_DIR)")
    add("--work", type=Path, default=ROOT / "runs/gpu_check/work", help="finished accuracy runs are kept here")
    add("--only", nargs="+", metavar="PART", help="run these parts alone (names as printed)")
    add("--dry_run", action="store_true", help="every part at tiny sizes, on the CPU")
    add("--into", type=Path, metavar="RESULTS.md", help="fill the rows that say 'not measured' from the report")
    add("report", type=Path, nargs="?", help="gpu_check.json, for --into")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts, or fill the results; 0 if all went well."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if (args.into is None) != (args.report is None):
        parser.error("--into RESULTS.md gpu_check.json: the two belong together")
    if args.into is not None:
        return put_into(args.into, args.report)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the part that runs, too
    try:
        with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
            return run_all(parser, args, Path(folder))
    finally:
        signal.signal(signal.SIGTERM, before)


def run_all(parser: argparse.ArgumentParser, args: argparse.Namespace, folder: Path) -> int:
    """Run the parts, and report after each."""
    clock = Clock(60 * args.minutes)
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.data or (Path(os.environ["DEFECT_DATA_DIR"]) if os.environ.get("DEFECT_DATA_DIR") else None)
    wheels = missing_wheels(args.wheels) if args.wheels else []
    place = Place(
        python=sys.executable,
        scratch=folder,
        work=args.work.resolve(),
        data=data.resolve() if data else None,
        wheels=wheels,
        dry_run=args.dry_run,
    )
    parts = list_parts(place)
    if args.only:
        names = [part.name for part in parts]
        if unknown := [name for name in args.only if name not in names]:
            parser.error(f"--only {unknown[0]}: expected some of {', '.join(names)}")
        parts = [part for part in parts if part.name in args.only or part.always]
    log = args.out / "gpu_check.log"
    log.write_text("", encoding="utf-8")
    report: dict[str, Any] = {"date": date.today().isoformat(), "dry_run": args.dry_run, "minutes": args.minutes}
    report |= {"machine": {}, "seconds": 0.0, "parts": []}
    for number, part in enumerate(parts):
        row = run_one(part, place, clock, parts[number + 1 :], log)
        report["parts"].append(row)
        if part.name == "machine":
            report["machine"] = row["figures"].get("machine", {})
        report["seconds"] = round(clock.spent, 1)
        collect_runs(place.runs, args.out / "accuracy_runs.zip")
        write_report(report, args.out)
        print(
            f"{clock.spent:5.0f} s  {part.name:<20} {row['status']:<12} {row['seconds']:5.0f} s  {row['last']}",
            flush=True,
        )
        if part.name == "machine" and report["machine"].get("device") == "cpu" and not args.dry_run:
            print("error: torch sees no CUDA device here; --dry_run tries everything on the CPU", file=sys.stderr)
            return 1
    print("\n" + (args.out / "gpu_check.md").read_text(encoding="utf-8"))
    return int(any(row["status"] != "ok" for row in report["parts"]))


def run_one(part: Part, place: Place, clock: Clock, later: Sequence[Part], log: Path) -> dict[str, Any]:
    """Run ``part`` in what time it has: that of its own, and what is left once later parts have their share."""
    kept = sum(other.share for other in later) * clock.total
    limit = min(part.limit, clock.left - kept)
    if part.share:  # the rest is its own, with what others did not need
        limit = clock.left - kept
    if limit < part.least:
        texts = {"status": "no time left", "error": f"needs {part.least:.0f} s, {max(limit, 0):.0f} s are left"}
        return {"name": part.name, "what": part.what, "seconds": 0.0, "last": texts["error"], "figures": {}} | texts
    return run_part(part, place.environment(), limit, place.scratch, log)


def write_report(report: dict[str, Any], out: Path) -> None:
    """The JSON file, and the rows of RESULTS.md as they would be."""
    write_text(out / "gpu_check.json", json.dumps(report, indent=2) + "\n")
    rows, _ = fill(RESULTS.read_text(encoding="utf-8"), report, again=True)
    title = "**Dry run on a CPU: no figure here means anything.**\n\n" if report["dry_run"] else ""
    write_text(out / "gpu_check.md", title + summary(rows, report) + "\n" + status_table(report))


def put_into(results: Path, path: Path) -> int:
    """Fill ``results`` from the report at ``path``."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        text = results.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {error}; expected --into RESULTS.md gpu_check.json", file=sys.stderr)
        return 1
    if report["dry_run"] or report["machine"].get("device") != "cuda":
        print(f"error: {path}: from a run without a GPU; its figures belong in no table", file=sys.stderr)
        return 1
    filled, notes = fill(text, report)
    write_text(results, filled)
    for note in notes:
        print(note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
