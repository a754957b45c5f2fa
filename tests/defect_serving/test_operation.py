"""A server under load, while its model changes, and as it ends."""

from __future__ import annotations

import http.client
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.inspecting import records_of
from helpers.serving import KEY, SLOW, Answer, Server, Servers

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.keys import Keys
from dinov3.defect_serving.service import expect_sound

FAILING = """
from dinov3.models.defect_engines.onnx_engine import OnnxEngine as Engine
start, calls = Engine.start, []
def failing(self, served_images):
    calls.append(1)
    if 2 < len(calls) < 6:  # the first ones warm it up
        raise RuntimeError("the device is gone")
    return start(self, served_images)
Engine.start = failing
"""


@pytest.mark.parametrize("kind", ["tiles", "checkpoint"])
def test_tiles_and_checkpoints_are_served_as_the_script_inspects_them(
    servers: Servers, served_models: Path, served_images: list[Path], tiny: Path, tmp_path: Path, kind: str
) -> None:
    model, flags = (tiny, ()) if kind == "checkpoint" else (served_models / "toy.onnx", ("--tile_size", 32))
    common = ("--checkpoint", model, "--threads", 1, "--device", "cpu", *flags)
    (tmp_path / "in").mkdir()
    for path in served_images[18:22]:
        shutil.copy(path, tmp_path / "in")
    server = servers.start(model, *common[4:])
    answer = server.inspect(*served_images[18:22])
    stop(server)
    output = ("--image_dir", tmp_path / "in", "--output_dir", tmp_path / "out", "--no_report", "--no_visualize")
    assert servers.script("inference_defect_model", *common, *output) == 0
    assert answer.status == 200
    for found, wanted in zip(answer.results, records_of(tmp_path / "out"), strict=True):
        assert found["image"] == wanted["image"] and found["verdict"] == wanted["verdict"]
        assert found["defect_probability"] == pytest.approx(wanted["defect_probability"], abs=1e-5)
        assert found["num_regions"] == wanted["num_regions"]


def stop(server: Server) -> None:
    server.child.send(15)
    assert server.child.status(20) == 0, server.child.log.read_text()


def load(server: Server, image: Path, until: Callable[[], bool], clients: int = 6) -> list[Answer | Exception]:
    """What clients hear that send an image again and again."""
    heard: list[Answer | Exception] = []

    def client() -> None:
        while not until():
            try:
                heard.append(server.inspect(image))
            except (OSError, http.client.HTTPException) as error:
                heard.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return heard


def test_too_much_to_do_is_said_at_once(servers: Servers, served_models: Path, served_images: list[Path]) -> None:
    flags = ("--queue_size", 4, "--max_images", 4, "--batch_size", 2)
    server = servers.start(served_models / "toy.onnx", *flags, before=SLOW.format(seconds=0.3))
    answers = server.inspect_all(served_images[:16], clients=16)
    counts = Counter(answer.status for answer in answers)
    assert counts.keys() == {200, 503} and counts[200] >= 4
    for answer in answers:
        if answer.status == 503:
            assert 1 <= int(answer.headers["retry-after"]) <= 30 and answer.body.keys() == {"error", "request_id"}
    assert server.inspect(*served_images[:4]).status == 200
    stop(server)


def test_no_result_in_time_is_no_verdict(servers: Servers, served_models: Path, served_images: list[Path]) -> None:
    server = servers.start(served_models / "toy.onnx", "--timeout", 0.4, before=SLOW.format(seconds=0.8))
    answer = server.inspect(*served_images[:3])
    assert answer.status == 504 and all(result.keys() == {"image", "error"} for result in answer.results)
    assert "no result in 0.4 s" in answer.results[0]["error"]
    stop(server)


def test_an_engine_that_fails_is_no_verdict(servers: Servers, served_models: Path, served_images: list[Path]) -> None:
    server = servers.start(served_models / "toy.onnx", before=FAILING)
    for _ in range(3):
        assert server.ask("GET", "/readyz").status == 200
        answer = server.inspect(served_images[0])
        assert answer.status == 500 and answer.results[0].keys() == {"image", "error"}
    ready = server.ask("GET", "/readyz")
    assert ready.status == 503 and "the last 3 batches" in ready.body["reason"]
    assert server.inspect(served_images[0]).status == 503 and server.ask("GET", "/healthz").status == 200
    stop(server)


def test_the_model_changes_without_a_gap(servers: Servers, served_models: Path, served_images: list[Path]) -> None:
    server = servers.start(
        served_models / "toy.onnx", "--admin_key_file", served_models / "keys.txt", "--queue_size", 64
    )
    changes: list[Answer] = []

    def change(name: str, key: str = KEY) -> Answer:
        body = f'{{"name": "{name}"}}'.encode()
        return server.ask("POST", "/v1/model", body, {"X-API-Key": key})

    def run() -> None:
        for name in ("strict.onnx", "broken.onnx", "toy.onnx", "strict.onnx"):
            time.sleep(0.15)
            changes.append(change(name))

    changing = threading.Thread(target=run)
    changing.start()
    heard = load(server, served_images[0], lambda: not changing.is_alive())
    assert [answer.status for answer in changes] == [200, 422, 200, 200]
    assert "strict.onnx stays in use" in changes[1].body["error"]
    prints = {change.body["name"]: change.body["fingerprint"] for change in changes if change.status == 200}
    assert len(heard) > 10 and all(answer.status == 200 for answer in heard)
    for answer in heard:
        model, result = answer.body["model"], answer.results[0]
        assert prints[model["name"]] == model["fingerprint"]
        assert result["threshold"] == (0.0 if model["name"] == "strict.onnx" else 0.5)
    assert server.ask("GET", "/v1/model").body["name"] == "strict.onnx"
    assert change("toy.onnx", "wrong").status == 401
    assert change("../toy.onnx").status == change("keys.txt").status == 404
    assert KEY not in server.child.log.read_text()
    stop(server)


def test_sigterm_ends_it_when_all_is_answered(servers: Servers, served_models: Path, served_images: list[Path]) -> None:
    server = servers.start(served_models / "toy.onnx", before=SLOW.format(seconds=0.1))
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load, server, served_images[0], ended.is_set, 12)
        time.sleep(0.7)
        server.child.send(15)
        status = server.child.status(20)
        ended.set()
        heard = loading.result()
    assert status == 0, server.child.log.read_text()
    answers = [one for one in heard if isinstance(one, Answer)]
    assert answers and {answer.status for answer in answers} <= {200, 503}
    whole = sum(answer.status == 200 for answer in answers)
    assert whole == sum(event.get("status") == 200 for event in server.events)  # each that was accepted was answered
    assert server.events[-1]["event"] == "stopped"


def test_keys(servers: Servers, served_models: Path, served_images: list[Path], tmp_path: Path) -> None:
    server = servers.start(served_models / "toy.onnx", "--api_key_file", served_models / "keys.txt")
    assert server.inspect(served_images[0]).status == server.ask("GET", "/v1/model").status == 401
    assert server.inspect(served_images[0], headers={"X-API-Key": KEY}).status == 200
    assert server.inspect(served_images[0], headers={"X-API-Key": KEY, "Host": "line.example"}).status == 200
    assert server.ask("POST", "/v1/model", b"{}", {"X-API-Key": KEY}).status == 403
    assert [event["key"] for event in server.events if "key" in event] == ["line"] * 2
    stop(server)
    for text, message in (
        ("", "no key in it"),
        ("line:short", "line 1: expected NAME:KEY"),
        (f"\n{KEY}", "line 2: expected NAME:KEY"),
    ):
        (tmp_path / "keys.txt").write_text(text)
        with pytest.raises(DefectError, match=message):
            Keys(tmp_path / "keys.txt", "--api_key_file")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"host": "0.0.0.0"}, "give --api_key_file"),
        ({"max_images": 100}, "more than --queue_size 64"),
        ({"model_dir": Path("nowhere")}, "no such folder"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict, message: str) -> None:
    with pytest.raises(DefectError, match=message):
        expect_sound(ServeConfig(checkpoint=Path("x.onnx"), **flags))


def test_an_address_in_use_is_named(servers: Servers, served_models: Path) -> None:
    server = servers.start(served_models / "toy.onnx")
    other = servers.begin(served_models / "toy.onnx", "--port", server.port)
    assert other.status(30) == 1 and f"--port {server.port}: cannot listen there" in other.log.read_text()
    stop(server)
