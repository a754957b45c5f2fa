"""Service files and container recipe, as far as they run without a service manager and a container engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.documents import read, table_with
from helpers.serving import Servers

from dinov3.defect_commands import serve
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.service import expect_sound

DEPLOY = ROOT / "examples/deploy"
sys.path.append(str(DEPLOY))
from offline_bundle import LICENCES, SOURCES  # noqa: E402

UNIT = DEPLOY / "defect-serve.service"
PROGRAM = "/opt/defect-serve/venv/bin/defect-serve"
systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, by its name."""
    text = re.sub(r"^#.*\n", "", read(DEPLOY / "Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {"": []}
    current = found[""]
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            current = found.setdefault(rest.split(" AS ")[1], [])
        current.append((name, rest.strip()))
    return found


def unit_command() -> list[str]:
    """The words that systemd would start, with what the settings file and systemd put into them."""
    lines = [line.split("=", 1) for line in read(DEPLOY / "defect-serve.env").splitlines() if re.match(r"\w+=", line)]
    settings = dict(lines)
    line = re.search(r"^ExecStart=(.+)$", read(UNIT), re.MULTILINE)[1].replace("%S", "/var/lib")
    words = []
    for word in line.split():
        if found := re.fullmatch(r"\$(\w+)", word):  # becomes several words; ${NAME} is one
            words += settings[found[1]].split()
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: settings[found[1]], word))
    return words


def arguments(words: list[str]) -> object:
    """What the server reads from these flags."""
    return serve.build_parser().parse_args(words)


def test_the_images_are_made_of_what_is_there_and_run_as_nobody() -> None:
    found = stages()
    ignored = [line for line in read(DEPLOY / "Dockerfile.dockerignore").splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"  # then what is let in by name
    sources = [shlex.split(rest)[:-1] for stage in found.values() for name, rest in stage if name == "COPY"]
    for source in [word for words in sources for word in words]:
        assert (ROOT / source).exists() and any(fnmatch.fnmatch(source, line[1:]) for line in ignored), source
    assert {*sources[0]} == {*SOURCES, *LICENCES}  # of the wheel, as the bundle builds it
    assert {"wheel", "runtime", "training"} <= found.keys()
    for name in ("runtime", "training"):
        users = [rest for kind, rest in found[name] if kind == "USER"]
        assert users and int(users[-1]) > 0
    for stage in found.values():
        for kind, rest in stage:
            assert kind != "FROM" or re.match(r"python:\$\{PYTHON\}-slim-\w+ ", rest)
            assert "pip install" not in rest or "--no-cache-dir" in rest
            extras = re.search(r"\.whl\)\[([\w,]+)\]", rest)
            assert not extras or all(f'"{extra}":' in read(ROOT / "setup.py") for extra in extras[1].split(","))
    assert "train" not in "".join(rest for kind, rest in found["runtime"] if kind == "RUN")  # no torch


def test_each_recipe_starts_the_server_with_flags_that_it_takes() -> None:
    runtime = dict(stages()["runtime"])
    program, *flags = json.loads(runtime["ENTRYPOINT"]) + json.loads(runtime["CMD"])
    service = ElementTree.parse(DEPLOY / "defect-serve.xml").getroot()
    by_windows = shlex.split(service.findtext("arguments").replace("%BASE%", "C:/defect-serve"))
    assert program == "defect-serve" and unit_command()[0] == PROGRAM
    for words in (flags, by_windows, unit_command()[1:]):
        given = arguments(words)
        config = ServeConfig(**{k: v for k, v in vars(given).items() if k in ServeConfig.__dataclass_fields__})
        expect_sound(config)
        assert config.buffer_dir.is_absolute() or config.buffer_dir.as_posix().startswith("C:/")
    assert arguments(flags).host == "0.0.0.0" and runtime["EXPOSE"] == str(arguments(flags).port)
    assert runtime["VOLUME"] == str(arguments(flags).buffer_dir)


def test_the_unit_s_server_is_healthy_until_it_is_stopped(
    servers: Servers, served_models: Path, tmp_path: Path
) -> None:
    flags = unit_command()[1:]
    flags[flags.index("--checkpoint") + 1] = str(served_models / "toy.onnx")
    flags[flags.index("--buffer_dir") + 1] = str(tmp_path / "buffer")
    server = servers.start(served_models / "toy.onnx", *flags, "--port", 0)
    check = json.loads(dict(stages()["runtime"])["HEALTHCHECK"].partition(" CMD ")[2])
    check = [sys.executable, *(word.replace(":8000/", f":{server.port}/") for word in check[1:])]
    assert subprocess.run(check).returncode == 0
    server.child.send(15)
    assert server.child.status(20) == 0, server.child.log.read_text()
    assert subprocess.run(check, capture_output=True).returncode != 0


@systemd
def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    (tmp_path / UNIT.name).write_text(
        re.sub(r"^(User|Group)=.*", r"\1=root", read(UNIT).replace(PROGRAM, "/bin/true"), flags=re.MULTILINE)
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", UNIT.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert UNIT.name not in done.stderr and done.returncode == 0, done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True)  # 20 is 2.0 of 10
    assert done.returncode == 0 and "Overall exposure" in done.stdout, done.stdout + done.stderr


def test_every_dependency_has_its_licence_in_the_table() -> None:
    listed = table_with(read(ROOT / "docs/DEPENDENCIES.md"), "licence", "comes with")
    for line in read(ROOT / "requirements-defect-detection.txt").splitlines():
        if name := re.match(r"[\w.-]+", line):
            assert name[0].lower() in listed, f"{name[0]}: run examples/deploy/list_licences.py"
            assert not listed[name[0].lower()]["licence"].startswith("not "), name[0]
