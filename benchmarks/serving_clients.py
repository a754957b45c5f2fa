"""Clients of a server under test: closed loop (each sends again once it has its answer) and open loop (sent by the
clock, whatever comes back). Run by serving.py in a process of its own, so that they share no lock with what they
measure; prints what it found as JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Found = dict[str, Any]
BOUNDARY = "8d2f6c1b"


class Client:
    """One connection per thread, kept."""

    def __init__(self, port: int):
        self.port, self._local = port, threading.local()

    def send(self, path: str, body: bytes, kind: str) -> tuple[int, Found]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def inspect(self, name: str, content: bytes) -> tuple[int, Found]:
        return self.send(f"/v1/inspect?name={name}", content, "application/octet-stream")


def closed_loop(client: Client, images: Sequence[tuple[str, bytes]], clients: int) -> Found:
    """Each image once, by so many clients."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda image: client.inspect(*image), images))
    seconds = time.perf_counter() - begun
    records = [answer["results"][0] for status, answer in answers if status == 200]
    return {"seconds": seconds, "statuses": [status for status, _ in answers], "records": records}


def open_loop(client: Client, images: Sequence[tuple[str, bytes]], rate: float, seconds: float) -> Found:
    """Requests at random times (a Poisson process) of ``rate`` per second; latencies count from those times."""
    rng, due, times = random.Random(0), 0.0, []
    while due < seconds:
        due += rng.expovariate(rate)
        times.append(due)
    latencies, statuses = [0.0] * len(times), [0] * len(times)
    begun = time.perf_counter()

    def request(number: int) -> None:
        statuses[number] = client.inspect(*images[number % len(images)])[0]
        latencies[number] = time.perf_counter() - begun - times[number]

    with ThreadPoolExecutor(128) as pool:
        for number, at in enumerate(times):
            time.sleep(max(begun + at - time.perf_counter(), 0))
            pool.submit(request, number)
    return {"latencies": latencies, "statuses": statuses}


def soak(client: Client, images: Sequence[tuple[str, bytes]], clients: int, seconds: float) -> Found:
    """Requests of 1 to 8 images by clients that pause now and then, until the time is over."""
    end, counts = time.monotonic() + seconds, {}
    lock = threading.Lock()

    def run(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            body = form([rng.choice(images) for _ in range(rng.randint(1, 8))])
            status, _ = client.send("/v1/inspect", body, f"multipart/form-data; boundary={BOUNDARY}")
            with lock:
                counts[status] = counts.get(status, 0) + 1
            if rng.random() < 0.1:
                time.sleep(rng.uniform(0, 0.5))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))
    return {"statuses": counts}


def form(images: Sequence[tuple[str, bytes]]) -> bytes:
    """The body of a request with several images."""
    parts = []
    for name, content in images:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
        parts += [head.encode(), content, b"\r\n"]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


KINDS: dict[str, Callable[..., Found]] = {"closed_loop": closed_loop, "open_loop": open_loop, "soak": soak}


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, required=True, help="JSON file with kind, port, images and arguments")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do the job."""
    job = json.loads(build_parser().parse_args(argv).job.read_text(encoding="utf-8"))
    images = [(str(number), Path(path).read_bytes()) for number, path in enumerate(job["images"])]
    print(json.dumps(KINDS[job["kind"]](Client(job["port"]), images, *job["arguments"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
