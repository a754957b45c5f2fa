"""What the server costs beside inspecting the same files offline, and how long its clients wait.

python benchmarks/serving.py --checkpoint export/best_accuracy.onnx --image_dir data/solar_cells/images

'offline' is what inference_defect_model.py does from files to records, without writing them; server and clients run on
the same cores. Rounds alternate; what counts is the median of the ratios. 'open loop' sends by the clock at 70% of the
server's own rate, and latencies count from the time by the clock. 'soak' runs only with --soak_minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from dinov3.data.defect_files import list_images  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402
from dinov3.inference.pipeline import predict_files  # noqa: E402
from dinov3.inference.predictor import DefectPredictor  # noqa: E402
from dinov3.inference.records import make_record  # noqa: E402

LEAST_RATIO, MOST_BATCHES, MOST_GROWTH = 0.85, 5.0, 1.05  # the aims
SHARE_OF_RATE = 0.7


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help=".onnx file from export_defect_model.py, or .pth")
    add("--image_dir", type=Path, required=True)
    add("--images", type=int, default=320, help="per round")
    add("--clients", type=int, default=32)
    add("--rounds", type=int, default=5)
    add("--batch_size", type=int, default=16)
    add("--seconds", type=float, default=30, help="of open loop")
    add("--soak_minutes", type=float, default=0.0)
    add("--store", action="store_true", help="the server writes into a results database and keeps the images, too")
    add("--json", type=Path, help="write the figures to this file, too")
    return parser


class Server:
    """The server in a process of its own, and clients in others."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.log = folder / "log"
        command = [sys.executable, ROOT / "examples/serve_defect_model.py", "--checkpoint", args.checkpoint]
        command += ["--port", 0, "--batch_size", args.batch_size, "--queue_size", 512]
        if args.store:
            command += ["--store", folder / "results.sqlite", "--store_images", folder / "kept"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(list(map(str, command)), stderr=log)
        while not (found := [e for e in self._events() if e["event"] == "serving"]):
            if self.process.poll() is not None:
                raise DefectError(self.log.read_text())
            time.sleep(0.1)
        self.port = found[0]["port"]

    def _events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def run(self, kind: str, images: Sequence[Path], *arguments: float) -> dict[str, Any]:
        """What clients find (:mod:`serving_clients`)."""
        job = {"kind": kind, "port": self.port, "images": [str(path) for path in images], "arguments": arguments}
        file = self.log.with_name("job.json")
        file.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, str(ROOT / "benchmarks/serving_clients.py"), "--job", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def memory_mb(self) -> float:
        """What it holds in memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            raise DefectError(self.log.read_text()[-2000:])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if an aim is missed."""
    args = build_parser().parse_args(argv)
    found = list_images(args.image_dir)
    paths = [found[i % len(found)] for i in range(args.images)]
    predictor = DefectPredictor.from_checkpoint(args.checkpoint, "cpu")
    cv2.setNumThreads(1)  # as the script and the server do
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args, Path(folder))
        try:
            figures["throughput"] = throughput(args, server, predictor, paths)
            figures["latency"] = latency(args, server, predictor, paths, figures["throughput"]["server"])
            if args.soak_minutes:
                figures["soak"] = soak(args, server, paths)
        finally:
            server.close()
    print_figures(args, figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return int(not aims_met(figures))


def offline(predictor: DefectPredictor, paths: Sequence[Path], batch_size: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds, and the records of the files, in their order."""
    begun = time.perf_counter()
    records = list(predict_files(predictor, paths, lambda p, r, d: make_record(p.name, r, None), batch_size=batch_size))
    return time.perf_counter() - begun, records


def throughput(
    args: argparse.Namespace, server: Server, predictor: DefectPredictor, paths: Sequence[Path]
) -> dict[str, Any]:
    """Images per second of both, their ratio, and the largest difference of a defect probability."""
    offline(predictor, paths[:64], args.batch_size)
    server.run("closed_loop", paths[:64], args.clients)
    rates, differences = {"offline": [], "server": []}, []
    for number in range(args.rounds):
        answers, records = {}, []
        for name in ("offline", "server")[:: -1 if number % 2 else 1]:
            if name == "offline":
                seconds, records = offline(predictor, paths, args.batch_size)
            else:
                answers = server.run("closed_loop", paths, args.clients)
                seconds = answers["seconds"]
            rates[name].append(len(paths) / seconds)
        if answers["statuses"] != [200] * len(paths):
            raise DefectError(f"the server answered with {Counter(answers['statuses'])}")
        if [record["image"] for record in answers["records"]] != [str(i) for i in range(len(paths))]:
            raise DefectError("answers were mixed up")
        pairs = zip(answers["records"], records, strict=True)
        differences += [abs(a["defect_probability"] - b["defect_probability"]) for a, b in pairs]
    ratios = [b / a for a, b in zip(rates["offline"], rates["server"], strict=True)]
    found = {name: statistics.median(values) for name, values in rates.items()}
    return found | {"ratio": statistics.median(ratios), "ratios": ratios, "difference": max(differences)}


def latency(
    args: argparse.Namespace, server: Server, predictor: DefectPredictor, paths: Sequence[Path], rate: float
) -> dict[str, Any]:
    """Of requests at 70% of ``rate``, in the time of a batch."""
    height, width = predictor.image_size
    batch, times = np.zeros((args.batch_size, height, width, 3), np.uint8), []
    for _ in range(10):
        begun = time.perf_counter()
        predictor.engine.run(batch)
        times.append(time.perf_counter() - begun)
    answers = server.run("open_loop", paths, SHARE_OF_RATE * rate, args.seconds)
    ordered = sorted(answers["latencies"])
    found = {f"p{share}": ordered[int(len(ordered) * share / 100)] for share in (50, 95, 99)}
    batch_time = statistics.median(times)
    found |= {"requests": len(ordered), "rate": SHARE_OF_RATE * rate, "batch": batch_time}
    refused = sum(status != 200 for status in answers["statuses"])
    return found | {"batches": found["p99"] / batch_time, "refused": refused}


def soak(args: argparse.Namespace, server: Server, paths: Sequence[Path]) -> dict[str, Any]:
    """Memory in the second half of the time beside that after a fifth of it."""
    samples: list[tuple[float, float]] = []
    ended, begun, length = threading.Event(), time.monotonic(), args.soak_minutes * 60

    def watch() -> None:
        while not ended.wait(1):
            samples.append(((time.monotonic() - begun) / length, server.memory_mb()))

    watching = threading.Thread(target=watch)
    watching.start()
    statuses = server.run("soak", paths, args.clients, length)["statuses"]
    ended.set()
    watching.join()
    early = statistics.median(mb for share, mb in samples if 0.18 <= share <= 0.22)
    late = max(mb for share, mb in samples if 0.5 <= share <= 1)
    return {"early_mb": early, "late_mb": late, "growth": late / early, "statuses": statuses}


def aims_met(figures: dict[str, Any]) -> bool:
    """Whether all that was measured is as it should be."""
    soaked = figures.get("soak", {"growth": 1.0})["growth"] <= MOST_GROWTH
    speed, waiting = figures["throughput"], figures["latency"]
    return (
        speed["ratio"] >= LEAST_RATIO and speed["difference"] <= 1e-5 and waiting["batches"] <= MOST_BATCHES and soaked
    )


def print_figures(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """In Markdown."""
    speed, waiting = figures["throughput"], figures["latency"]
    low, high = min(speed["ratios"]), max(speed["ratios"])
    p50, p95, p99, batch = (waiting[name] * 1000 for name in ("p50", "p95", "p99", "batch"))
    print(f"load average at the start: {figures['load_average']:.1f}\n")
    print("| the server | measured | aim |\n|---|---|---|")
    print(f"| offline, images per second | {speed['offline']:.1f} | |")
    print(f"| server, {args.clients} clients | {speed['server']:.1f} | |")
    print(f"| ratio, median of {args.rounds} | {speed['ratio']:.2f} ({low:.2f} to {high:.2f}) | {LEAST_RATIO} |")
    print(f"| largest difference of a probability | {speed['difference']:.1e} | 1e-5 |")
    print(f"| a batch of {args.batch_size} | {batch:.0f} ms | |")
    print(f"| open loop, {waiting['rate']:.1f} per second: p50, p95, p99 | {p50:.0f}, {p95:.0f}, {p99:.0f} ms | |")
    print(f"| p99 in batches; refused | {waiting['batches']:.1f}; {waiting['refused']} | {MOST_BATCHES:g} |")
    if soaked := figures.get("soak"):
        told = ", ".join(f"{count} with {status}" for status, count in soaked["statuses"].items())
        print(
            f"| soak, {args.soak_minutes:g} minutes: memory after a fifth, at most in the second half | "
            f"{soaked['early_mb']:.0f}, {soaked['late_mb']:.0f} MB: {soaked['growth']:.2f} | {MOST_GROWTH} |"
        )
        print(f"| its answers | {told} | |")


if __name__ == "__main__":
    run_script(main)
