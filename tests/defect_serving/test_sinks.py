"""Sinks have each result, whatever stops in between: the other end, or the server."""

from __future__ import annotations

import http.client
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import Answer, Server, Servers
from helpers.sinks import MqttBroker, WebhookReceiver, eventually

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.service import expect_sound
from dinov3.defect_serving.sinks.mqtt import MqttSink
from dinov3.defect_serving.sinks.outbox import Outbox
from dinov3.defect_serving.sinks.webhook import Webhook
from dinov3.defect_station.store import Store


@pytest.fixture
def broker() -> Iterator[MqttBroker]:
    broker = MqttBroker()
    yield broker
    broker.stop()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def flags(broker: MqttBroker, receiver: WebhookReceiver, tmp_path: Path) -> list[object]:
    (tmp_path / "token").write_text("secret-token\n")
    webhook = ["--webhook", f"http://127.0.0.1:{receiver.port}/in", "--webhook_token_file", tmp_path / "token"]
    return ["--mqtt", f"mqtt://127.0.0.1:{broker.port}/line/1", *webhook, "--buffer_dir", tmp_path / "buffer"]


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [result["id"] for result in results]


def expected_messages(answers: list[Answer]) -> dict[str, dict[str, Any]]:
    """What a sink gets of these answers, without the time."""
    found = {}
    for answer in answers:
        common = {name: value for name, value in answer.body.items() if name not in ("time", "results", "parts")}
        common["part"] = next(iter(answer.body["parts"]), None)
        for number, result in enumerate(answer.results):
            key = f"{answer.body['request_id']}-{number}"
            found[key] = {"id": key, **common, "result": result}
    return found


def figure(server: Server, name: str) -> float:
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_results_wait_for_a_sink_that_is_away(
    servers: Servers,
    served_models: Path,
    served_images: list[Path],
    broker: MqttBroker,
    receiver: WebhookReceiver,
    flags: list[object],
    request: pytest.FixtureRequest,
) -> None:
    away = request.config.getoption("--seconds_away")
    server = servers.start(served_models / "toy.onnx", *flags)
    answers = [server.inspect(*served_images[:3], query="?part_id=1&camera=left")]
    for end in (broker, receiver):
        assert eventually(lambda end=end: len(end.results) == 3), server.events
        end.stop()
    back = time.monotonic() + away
    answers += server.inspect_all(served_images[3:20])
    while time.monotonic() < back:
        answers += server.inspect_all(served_images[3:20])
        time.sleep(0.5)
    assert {answer.status for answer in answers} == {200}
    assert figure(server, 'defect_sink_waiting_results{sink="mqtt"}') == len(answers) - 1 >= 17
    receiver.headers, receiver.sick = {}, True
    receiver.start()
    patience = 20 + away  # attempts become rarer
    assert eventually(lambda: bool(receiver.headers), patience) and len(receiver.results) == 3
    receiver.sick = False
    broker.start()
    answers.append(server.inspect(*served_images[20:23]))
    wanted = expected_messages(answers)
    for end in (broker, receiver):
        assert eventually(lambda end=end: len(end.results) >= len(wanted), patience), server.events
        found = ids(end.results)
        lost, doubled = len(wanted.keys() - set(found)), len(found) - len(set(found))
        print(f"{type(end).__name__}: {len(wanted)} sent, {lost} lost, {doubled} doubled")
        assert lost == doubled == 0
        for result in end.results:
            assert {name: value for name, value in result.items() if name != "time"} == wanted[result["id"]]
    assert receiver.headers["Authorization"] == "Bearer secret-token"
    server.child.send(15)
    assert server.child.status(20) == 0, server.child.log.read_text()
    assert "running" in broker.states and eventually(lambda: broker.states[-1] == "stopped")
    assert "secret-token" not in server.child.log.read_text()


def test_each_result_arrives_whenever_the_server_is_killed(
    servers: Servers,
    served_models: Path,
    served_images: list[Path],
    broker: MqttBroker,
    receiver: WebhookReceiver,
    flags: list[object],
    tmp_path: Path,
) -> None:
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
    rng, answered, asked = random.Random(0), [], 0
    database = tmp_path / "results.sqlite"
    flags += ["--store", database, "--store_images", tmp_path / "kept"]
    for _ in range(5):
        server, ended = servers.start(served_models / "toy.onnx", *flags), threading.Event()

        def client(number: int, server: Server = server, ended: threading.Event = ended) -> None:
            while not ended.is_set():
                try:
                    image = served_images[len(answered) % len(served_images)]
                    answered.append(server.inspect(image, query=f"?part_id={number}-{time.monotonic_ns()}"))
                except (OSError, http.client.HTTPException):
                    return  # an error, which is no verdict

        clients = [threading.Thread(target=client, args=(asked + i,)) for i in range(6)]
        known = len(answered)
        for one in clients:
            one.start()
        assert eventually(lambda known=known: len(answered) > known + 2)
        time.sleep(rng.uniform(0.0, 0.5))
        server.child.send(9)
        server.child.status(20)
        ended.set()
        for one in clients:
            one.join(20)
        asked += 6
    server = servers.start(served_models / "toy.onnx", *flags)
    for sink in ("mqtt", "webhook"):
        assert eventually(lambda sink=sink: figure(server, f'defect_sink_waiting_results{{sink="{sink}"}}') == 0)
    server.child.send(15)
    assert server.child.status(20) == 0
    wanted = expected_messages(answered)
    assert len(wanted) > 10 and all(answer.status == 200 for answer in answered)
    for end in (broker, receiver):
        found = {result["id"]: result for result in end.results}
        assert wanted.keys() <= found.keys()
        for key, message in wanted.items():
            assert {name: value for name, value in found[key].items() if name != "time"} == message
        assert all(found[result["id"]] == result for result in end.results)  # what comes twice is the same
        parts = [result["part_id"] for result in found.values()]
        assert len(parts) == len(set(parts))  # and nothing was inspected twice
    with Store.open(str(database), must_exist=True) as store:
        rows = {row["part"]: row for row in store.rows()}
        assert len(rows) == sum(store.counts().values())
    originals = {path.name: path.read_bytes() for path in served_images}
    for answer in answered:
        row, (result,) = rows[answer.body["part_id"]], answer.results
        assert [row[name] for name in ("name", "verdict", "defect_probability")] == [
            result[name] for name in ("image", "verdict", "defect_probability")
        ]
        assert Path(row["image_path"]).read_bytes() == originals[row["name"]] and Path(row["mask_path"]).is_file()


def test_a_full_buffer_accepts_no_images(
    servers: Servers, served_models: Path, served_images: list[Path], tmp_path: Path
) -> None:
    away = ("--webhook", "http://127.0.0.1:9/", "--buffer_dir", tmp_path / "buffer", "--buffer_size", 3)
    server = servers.start(served_models / "toy.onnx", *away)
    assert server.inspect(*served_images[:3]).status == 200
    answer = server.inspect(served_images[3])
    assert answer.status == 503 and answer.headers["retry-after"] and "verdict" not in str(answer.body)
    assert server.ask("GET", "/readyz").status == 503
    other = servers.begin(served_models / "toy.onnx", *away)
    assert other.status(30) == 1 and "--buffer_dir" in other.log.read_text()
    server.child.send(15)
    assert server.child.status(20) == 0


def test_camera_folders_are_watched(
    servers: Servers, served_models: Path, served_images: list[Path], receiver: WebhookReceiver, tmp_path: Path
) -> None:

    def received() -> dict[str, dict]:
        """By id, as a receiver is to take them: what a killed server had sent and not noted yet comes again."""
        return {result["id"]: result for result in receiver.results}

    folder = tmp_path / "cameras"
    (folder / "left").mkdir(parents=True)
    flags = ("--webhook", f"http://127.0.0.1:{receiver.port}", "--buffer_dir", tmp_path / "buffer", "--watch", folder)
    flags += ("--part_regex", "left/([0-4])")
    server = servers.start(served_models / "toy.onnx", *flags)
    for number, image in enumerate(served_images[:6]):
        shutil.copy(image, folder / "left" / f"{number}.tmp")
        (folder / "left" / f"{number}.tmp").rename(folder / "left" / f"{number}.png")
    assert eventually(lambda: len(received()) == 6), server.events
    server.child.send(9)
    server.child.status(20)
    server = servers.start(served_models / "toy.onnx", *flags)
    shutil.copy(served_images[6], folder / "6.png")
    assert eventually(lambda: len(received()) >= 7), server.events
    answers = {result["image"]: result for path in served_images[:7] for result in server.inspect(path).results}
    assert eventually(lambda: len(received()) == 14)
    server.child.send(15)
    assert server.child.status(20) == 0
    watched = [result for result in received().values() if "/" in result["result"]["image"]]
    assert len(watched) == 6 and {result["camera"] for result in watched} == {"left"}
    for result in watched:
        number = Path(result["result"]["image"]).stem
        assert result["part_id"] == (number if number in "01234" else None)  # nothing tells that of the last one
        name = served_images[int(number)].name
        assert result["result"]["defect_probability"] == pytest.approx(answers[name]["defect_probability"], abs=1e-5)


def test_addresses_that_cannot_be_used(tmp_path: Path) -> None:
    outbox, metrics = Outbox(tmp_path / "buffer", ["mqtt", "webhook"], 10), Metrics()
    for url in ("mqtt://broker", "http://broker/topic", "mqtt://user@broker/topic", "mqtt://broker/topic/#"):
        with pytest.raises(DefectError, match="expected mqtt://HOST:PORT/TOPIC"):
            MqttSink(url, None, None, None, outbox, metrics, dict)
    for url in ("host:80", "ftp://host/"):
        with pytest.raises(DefectError, match="expected an address such as"):
            Webhook(url, None, outbox, metrics)
    with pytest.raises(DefectError, match="--webhook_token_file"):
        Webhook("http://host", tmp_path / "none", outbox, metrics)
    with pytest.raises(DefectError, match="go nowhere"):
        expect_sound(ServeConfig(checkpoint=Path("x.onnx"), watch=tmp_path))
    outbox.close()
