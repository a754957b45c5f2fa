"""With a results database, every result is in it before anyone hears of it, and people can look at what was sent."""

from __future__ import annotations

import base64
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.serving import KEY, Answer, Server, Servers
from helpers.sinks import eventually
from helpers.storing import inspected
from helpers.toy_onnx import write_toy

from dinov3.data.defect_masks import read_mask
from dinov3.defect_errors import DefectError
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.recording import Recorder
from dinov3.defect_serving.schemas import InspectAnswer
from dinov3.defect_serving.service import expect_sound
from dinov3.defect_station.store import Store
from dinov3.defect_station.store.inspected import read_embedding
from dinov3.models.defect_engines.onnx_file import read_facts
from dinov3.models.defect_facts import fingerprint

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")


def rows_of(path: Path) -> list[dict]:
    with Store.open(str(path), must_exist=True) as store:
        return list(store.rows(embeddings=True))


def stop(server: Server) -> None:
    server.child.send(15)
    assert server.child.status(20) == 0, server.child.log.read_text()


def test_what_is_answered_is_in_the_database_with_image_and_mask(
    servers: Servers, served_models: Path, served_images: list[Path], tmp_path: Path
) -> None:
    database, kept, broken = tmp_path / "results.sqlite", tmp_path / "kept", tmp_path / "broken.png"
    broken.write_bytes(served_images[0].read_bytes()[:60])
    server = servers.start(served_models / "toy.onnx", "--store", database, "--store_images", kept)
    labels = "?part_id=17&camera=left&mask=true"
    answers = [server.inspect(served_images[0], broken, served_images[1], query=labels)]
    answers += [server.inspect(served_images[2]) for _ in range(2)]  # a line that makes the same picture twice
    answers += [server.inspect(served_images[3], query="?trigger_id=7") for _ in range(2)]  # an answer was not heard
    answers += server.inspect_all(served_images[4:20])
    assert {answer.status for answer in answers} == {200}
    stop(server)
    rows = rows_of(database)
    told = Counter((answer.body["request_id"], result["image"]) for answer in answers for result in answer.results)
    del told[answers[4].body["request_id"], served_images[3].name]
    assert Counter((row["labels"]["request_id"], row["name"]) for row in rows) == told
    by_name = {row["name"]: row for row in rows}
    for answer in answers:
        for result in answer.results:
            row = by_name[result["image"]]
            assert row["verdict"] == result.get("verdict", "error") and row["error"] == result["error"]
            assert row["regions"] == result.get("regions", []) and row["model"] == answer.body["model"]["fingerprint"]
            if row["verdict"] != "error":
                assert row["defect_probability"] == result["defect_probability"]
    first = answers[0].results[0]
    row = by_name[first["image"]]
    assert row["part"] == "17" and row["labels"] == {
        "camera": "left",
        "request_id": answers[0].body["request_id"],
    }
    image = Path(row["image_path"])
    assert image.read_bytes() == served_images[0].read_bytes() and image.stem == row["content_hash"]
    color = cv2.imread(str(served_images[0])).mean((0, 1))[::-1] / 255
    np.testing.assert_allclose(read_embedding(row), color, atol=0.01)  # what the toy describes an image by
    png = np.frombuffer(base64.b64decode(first["mask"].partition(",")[2]), np.uint8)
    assert (read_mask(row["mask_path"]) == cv2.imdecode(png, cv2.IMREAD_UNCHANGED)).all()
    assert by_name["broken.png"]["image_path"] == "" and by_name["broken.png"]["content_hash"] == fingerprint(broken)
    assert all(Path(row["mask_path"]).is_file() for row in rows if row["verdict"] != "error")


def test_retention_takes_the_copies_of_what_it_removes_and_no_others(
    servers: Servers, served_models: Path, served_images: list[Path], tmp_path: Path
) -> None:
    database, kept, cameras = tmp_path / "results.sqlite", tmp_path / "kept", tmp_path / "cameras"
    cameras.mkdir()
    shutil.copy(served_images[6], cameras / "photo.png")
    dark = tmp_path / "dark.png"
    assert cv2.imwrite(str(dark), np.zeros((24, 24, 3), np.uint8))
    flags = ("--store", database, "--store_images", kept)
    watching = ("--store_keep", "flagged", "--watch", cameras, "--buffer_dir", tmp_path / "buffer")
    server = servers.start(served_models / "toy.onnx", *flags, *watching)
    assert {answer.status for answer in server.inspect_all([dark, *served_images[:6], served_images[0]])} == {200}
    assert eventually(lambda: len(rows_of(database)) == 9)
    stop(server)
    rows = rows_of(database)
    assert [row["name"] for row in rows if not row["image_path"] or not row["mask_path"]] == ["dark.png"]
    twins = [row["id"] for row in rows if row["name"] == served_images[0].name]
    with Store.open(str(database)) as store:
        store.decide(twins[0], "Li", "reject")
    (stay,) = (row for row in rows if row["id"] == twins[0])
    server = servers.start(served_models / "toy.onnx", *flags, "--store_mb", 1e-6)
    assert eventually(lambda: [row["id"] for row in rows_of(database)] == [twins[0]])
    wanted = {Path(stay[name]) for name in ("image_path", "mask_path")}
    assert eventually(lambda: {path for path in kept.glob("*/*") if path.is_file()} == wanted)
    stop(server)
    assert (cameras / "photo.png").is_file()


def test_a_full_disk_loses_no_answer(
    servers: Servers, served_models: Path, served_images: list[Path], tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size need a Unix system")
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process need Linux")
    database, cameras = tmp_path / "results.sqlite", tmp_path / "cameras"
    (cameras / "left").mkdir(parents=True)
    flags = ("--store", database, "--store_images", tmp_path / "kept", "--watch", cameras)
    server = servers.start(served_models / "toy.onnx", *flags, "--buffer_dir", tmp_path / "buffer")
    assert server.inspect(served_images[0]).status == 200
    limits = resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    answers = server.inspect_all(served_images[1:4])
    assert {answer.status for answer in answers} == {503}
    assert all("verdict" not in str(answer.body) and answer.headers["retry-after"] for answer in answers)
    shutil.copy(served_images[5], cameras / "left" / "5.png")
    assert eventually(lambda: "defect_store_failures_total 4.0" in server.ask("GET", "/metrics").body.decode())
    resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, limits)
    assert server.inspect(served_images[4]).status == 200
    assert eventually(lambda: len(rows_of(database)) == 3)
    server.child.send(9)
    server.child.status(20)
    server = servers.start(served_models / "toy.onnx", *flags, "--buffer_dir", tmp_path / "buffer")
    assert server.inspect(served_images[6]).status == 200
    shutil.copy(served_images[7], cameras / "7.png")
    assert eventually(lambda: len(rows_of(database)) == 5)
    stop(server)
    rows = rows_of(database)
    assert [row["name"] for row in rows] == ["00.png", "04.png", "left/5.png", "06.png", "7.png"]
    watched = rows[2]
    assert watched["labels"]["camera"] == "left" and watched["labels"]["watch"] == str(cameras)
    assert watched["image_path"] == str(cameras / "left" / "5.png") and Path(watched["mask_path"]).is_file()


def test_the_images_of_a_part_come_to_one_verdict(servers: Servers, served_models: Path, tmp_path: Path) -> None:
    dark, grey, bright = (tmp_path / f"cell7_{name}.png" for name in ("dark", "grey", "bright"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    for level, path in ((0, dark), (80, grey), (200, bright)):
        assert cv2.imwrite(str(path), np.full((24, 24, 3), level, np.uint8))
    calibration = {"target_values": {"max_miss_rate": 0.1, "views_to_reject": 2}}
    model = write_toy(tmp_path / "parts.onnx", replace(read_facts(served_models / "toy.onnx"), calibration=calibration))
    flags = ("--store", tmp_path / "results.sqlite", "--part_regex", "(cell[0-9]+)")
    server = servers.start(model, *flags)

    def verdicts(answer: Answer) -> dict[str, str]:
        InspectAnswer.model_validate(answer.body)
        return {part["part"]: part["verdict"] for part in answer.body["parts"]}

    assert verdicts(server.inspect(dark, grey, query="?part_id=a/1")) == {"a/1": "accept"}
    assert verdicts(server.inspect(dark, bright)) == {"cell7": "review"}  # by its name; one reject of two
    assert verdicts(server.inspect(bright, bright, broken, query="?part_id=c")) == {"c": "reject"}
    only = server.inspect(broken, query="?part_id=d")
    assert only.status == 422 and verdicts(only) == {"d": "review"}
    dark = dark.rename(tmp_path / "dark.png")
    assert verdicts(server.inspect(broken, dark, query="?part_id=&trigger_id=")) == {}  # a code that was not read
    assert server.inspect(dark, query="?part_id=%20&trigger_id=").status == 200
    assert verdicts(server.inspect(bright, query="?part_id=a/1&camera=top")) == {"a/1": "review"}
    whole = server.ask("GET", "/v1/parts/a/1").body
    assert [whole[name] for name in ("verdict", "images", "accept", "reject")] == ["review", 3, 2, 1]
    assert [view["camera"] for view in whole["views"]] == [None, None, "top"] and whole["image"] == bright.name
    with Store.open(str(tmp_path / "results.sqlite")) as store:
        store.decide(whole["views"][2]["id"], "Li", "accept")
        assert [row["part"] for row in store.rows(name="dark.png")] == [None, None]  # two of them, and of no part
    assert server.ask("GET", "/v1/parts/a/1").body["verdict"] == "accept"
    assert server.ask("GET", "/v1/parts/d").body["verdict"] == "review"
    assert server.ask("GET", "/v1/parts/none").status == 404
    with Store.open(str(tmp_path / "results.sqlite")) as store:  # someone looks at the image that could not be read
        store.decide(server.ask("GET", "/v1/parts/c").body["views"][2]["id"], "Li", "accept")
    told = server.ask("GET", "/v1/parts/c").body
    assert [told[name] for name in ("verdict", "reject", "accept", "error")] == ["reject", 2, 1, 0]
    assert told["image"] == bright.name
    stop(server)


def test_a_change_of_what_comes_in_is_told_and_known_after_a_restart(
    servers: Servers, served_models: Path, served_images: list[Path], offline: dict, tmp_path: Path
) -> None:
    reference, bright = tmp_path / "per_image.csv", tmp_path / "bright.png"
    lines = [f"{name},{record['defect_probability']}" for name, record in offline.items()]
    reference.write_text("\n".join(["image,defect_probability", *lines]) + "\n")
    assert cv2.imwrite(str(bright), np.full((24, 24, 3), 250, np.uint8))
    flags = ("--store", tmp_path / "results.sqlite", "--drift_reference", reference, "--false_alarm", 0.3)

    with Store.open(str(tmp_path / "results.sqlite")) as store:  # of a time before the reference, and of another model
        model = fingerprint(served_models / "toy.onnx")
        store.add(inspected(n, 1.0, model=model, time="2020-01-01T00:00:00.000000Z") for n in range(30))
        store.add(inspected(n, 1.0) for n in range(30))

    def drift(server: Server, images: int) -> dict:
        assert eventually(lambda: server.ask("GET", "/v1/drift").body["images"] == images), server.events
        return server.ask("GET", "/v1/drift").body

    server = servers.start(served_models / "toy.onnx", *flags)
    server.inspect_all(served_images[::2])
    assert not drift(server, 20)["alarm"]
    for number in range(30):  # two views of a part count once; the last parts may have more to come
        assert server.inspect(bright, bright, query=f"?part_id={number}").status == 200
    state = drift(server, 20 + 30 - 4)
    assert state["alarm"] and state["reference_images"] == 40 and state["tests"][0]["after"] > 20
    assert {moved["name"] for moved in state["moved_most"]} == {"bright.png"} and state["moved_most"][0]["id"] > 20
    assert eventually(lambda: 'defect_drift_alarm{what="score"} 1.0' in server.ask("GET", "/metrics").body.decode())
    stop(server)
    server = servers.start(served_models / "toy.onnx", *flags, "--admin_key_file", served_models / "keys.txt")
    assert drift(server, 46) == state and state["in_use"]
    assert server.ask("POST", "/v1/model", b'{"name": "strict.onnx"}', {"X-API-Key": KEY}).status == 200
    assert server.inspect(bright).status == 200
    assert drift(server, 46) == state | {"in_use": False}  # no word on what another model says
    stop(server)
    with pytest.raises(DefectError, match="--drift_reference needs --store"):
        expect_sound(ServeConfig(checkpoint=bright, drift_reference=reference))


def test_flags_that_cannot_be_used(tmp_path: Path, served_models: Path) -> None:
    model = served_models / "toy.onnx"
    with pytest.raises(DefectError, match="need --store"):
        expect_sound(ServeConfig(checkpoint=model, store_images=tmp_path))
    with pytest.raises(DefectError, match="--store_keep flagged needs --store_images"):
        expect_sound(ServeConfig(checkpoint=model, store="results.sqlite", store_keep="flagged"))
    expect_sound(ServeConfig(checkpoint=model, watch=tmp_path, store="results.sqlite"))
    config = ServeConfig(checkpoint=model, store=str(tmp_path / "results.sqlite"), store_images=tmp_path / "kept")
    recorder = Recorder(config, Metrics())
    try:
        with pytest.raises(DefectError, match="--store_images"):
            Recorder(config, Metrics())
    finally:
        recorder.close()
