"""What the server says of images is what the inspection script says, and errors are never verdicts."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.serving import Answer, Server, Servers, form
from PIL import Image

from dinov3.defect_serving.schemas import EXAMPLE_ANSWER, InspectAnswer


@pytest.fixture(scope="module")
def server(servers: Servers, served_models: Path) -> Iterator[Server]:
    flags = ("--max_request_mb", 0.2, "--max_megapixels", 1, "--max_images", 8, "--timeout", 2)
    server = servers.start(served_models / "toy.onnx", *flags)
    yield server
    server.child.send(15)
    assert server.child.status(20) == 0, server.child.log.read_text()


def same(found: Any, wanted: Any) -> bool:
    """Whether two JSON values are equal, numbers within 1e-5."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return abs(found - wanted) <= 1e-5 if type(wanted) is float else found == wanted


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Without what takes time and where the mask is."""
    return {name: value for name, value in record.items() if name not in ("milliseconds", "mask")}


def test_many_clients_get_what_the_script_says(server: Server, served_images: list[Path], offline: dict) -> None:
    random.seed(0)
    shuffled = random.sample(served_images, len(served_images))
    answers = server.inspect_all(shuffled, clients=16)
    answers += [server.inspect(*served_images[i : i + 8]) for i in range(0, 40, 8)]
    results = [result for answer in answers for result in answer.results]
    assert [result["image"] for result in results] == [path.name for path in shuffled + served_images]
    for result in results:
        assert result.keys() == offline[result["image"]].keys()
        assert same(comparable(result), comparable(offline[result["image"]]))
    assert len({answer.body["request_id"] for answer in answers}) == len(answers)
    for answer in answers:
        assert answer.status == 200 and answer.headers["x-request-id"] == answer.body["request_id"]
        InspectAnswer.model_validate(answer.body)


def test_an_image_as_the_whole_body(server: Server, served_images: list[Path], offline: dict) -> None:
    query = "?name=x.png&part_id=17&camera=left&trigger_id=t%201&mask=true&attention=true"
    answer = server.ask("POST", f"/v1/inspect{query}", served_images[0].read_bytes(), {"Content-Type": "image/png"})
    (result,) = answer.results
    assert (answer.body["part_id"], answer.body["camera"], answer.body["trigger_id"]) == ("17", "left", "t 1")
    assert result["image"] == "x.png" and result["verdict"] == offline["00.png"]["verdict"]
    mask, attention = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(result[name].removeprefix("data:image/png;base64,")))))
        for name in ("mask", "attention")
    )
    assert mask.shape == (24, 24) and np.count_nonzero(mask) / mask.size == result["mask_area_fraction"]
    assert attention.max() == 255
    kind, body = form([("y.png", served_images[0].read_bytes())], part_id="18", camera="右")
    answer = server.ask("POST", "/v1/inspect", body, {"Content-Type": kind})
    assert (answer.body["part_id"], answer.body["camera"], answer.body["trigger_id"]) == ("18", "右", None)
    assert answer.results[0]["mask"] is None and "attention" not in answer.results[0]


def test_one_bad_image_fails_alone(server: Server, served_images: list[Path], tmp_path: Path, offline: dict) -> None:
    broken, empty = tmp_path / "broken.png", tmp_path / "empty.png"
    broken.write_bytes(served_images[0].read_bytes()[:300])
    empty.write_bytes(b"")
    answer = server.inspect(served_images[1], broken, served_images[2], empty)
    assert answer.status == 200
    good, bad, other, none = answer.results
    assert good["verdict"] == offline["01.png"]["verdict"] and other["verdict"] == offline["02.png"]["verdict"]
    assert bad.keys() == none.keys() == {"image", "error"}
    assert bad["error"].startswith("broken.png: broken or truncated") and none["error"] == "empty.png: empty file"
    alone = server.inspect(broken)
    assert alone.status == 422 and alone.results == [bad]


def bomb() -> bytes:
    """A PNG file of 100 megapixels, in 100 kB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 10000, 10000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10001 * 10000), 9))


def refused(answer: Answer, status: int, text: str) -> None:
    assert answer.status == status and text in json.dumps(answer.body), answer
    assert "verdict" not in json.dumps(answer.body) and "accept" not in json.dumps(answer.body)


def test_requests_that_cannot_be_answered(server: Server, served_images: list[Path]) -> None:
    good = ("a.png", served_images[0].read_bytes())

    def ask(body: bytes | None, kind: str, **headers: str) -> Answer:
        return server.ask("POST", "/v1/inspect", body, {"Content-Type": kind} | headers)

    kind, whole = form([good, good])
    refused(ask(whole[:-60], kind), 400, "cut off")
    refused(ask(whole, "multipart/form-data"), 400, "cut off")
    refused(ask(b"{}", "application/json"), 415, "application/json")
    refused(server.ask("POST", "/v1/inspect", b"x"), 415, "expected multipart/form-data")
    kind, body = form([good], field="image")
    refused(ask(body, kind), 422, "file 'image'; expected files images")
    kind, body = form([good], part="17")
    refused(ask(body, kind), 422, "field 'part'")
    kind, body = form([])
    refused(ask(body, kind), 422, "no image")
    kind, body = form([good], part_id="1" * 300)
    refused(ask(body, kind), 422, "more than 200 characters")
    kind, body = form([good] * 9)
    refused(ask(body, kind), 422, "Maximum number of files is 8")
    refused(ask(bytes(300_000), "image/png"), 413, "more than 0.2 MB")
    refused(ask(bomb(), "image/png"), 422, "10000 x 10000 pixels; expected at most 1 megapixels")
    refused(ask(b"", "image/png"), 422, "empty file")
    refused(ask(good[1], "image/png", Origin="http://evil.example"), 403, "evil.example")
    refused(ask(good[1], "image/png", Host="evil.example"), 403, "Host")
    refused(server.ask("POST", "/v1/inspect?mask=perhaps", good[1], {"Content-Type": "image/png"}), 422, "query.mask")
    refused(server.ask("GET", "/v1/inspect"), 405, "Method Not Allowed")
    assert server.ask("DELETE", "/v1/model").headers["allow"] == "GET, POST"
    refused(server.ask("GET", "/nothing"), 404, "Not Found")
    assert server.inspect(served_images[0]).status == 200


def test_bodies_of_unknown_length_have_a_limit(server: Server) -> None:
    head = b"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    with server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        for _ in range(4):
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    with server.raw(head + b"Content-Length: 10000000000\r\nExpect: 100-continue\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_slow_and_vanished_clients_hold_nobody_up(server: Server, served_images: list[Path]) -> None:
    head = b"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    slow = [server.raw(head + b"x") for _ in range(4)]
    server.raw(head + b"x" * 500).close()
    begun = time.monotonic()
    assert {answer.status for answer in server.inspect_all(served_images[:16])} == {200}
    assert time.monotonic() - begun < 2
    for connection in slow:
        with connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert b"defect_queue_images 0.0\n" in server.ask("GET", "/metrics").body


def test_documents_and_figures(server: Server, served_images: list[Path]) -> None:
    server.inspect(served_images[0])
    assert server.ask("GET", "/healthz").body["status"] == server.ask("GET", "/readyz").body["status"] == "ok"
    figures = server.ask("GET", "/metrics").body.decode()
    for name in ("defect_results_total{verdict=", "defect_stage_seconds_count{stage=", "defect_probability_count "):
        assert name in figures
    document = server.ask("GET", "/openapi.json").body
    operation = document["paths"]["/v1/inspect"]["post"]
    assert set(operation["requestBody"]["content"]) >= {"multipart/form-data", "image/*"}
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert InspectAnswer.model_validate(example) == InspectAnswer.model_validate(EXAMPLE_ANSWER)
    model = server.ask("GET", "/v1/model").body
    assert model["name"] == "toy.onnx" and model["classes"] == ["normal", "defect"]
    assert server.inspect(served_images[0]).body["model"].items() <= model.items()
