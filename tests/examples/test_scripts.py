"""The driver scripts: three stages in a row, their Windows counterparts, and the checks of test_model.py."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.documents import read, table_with
from helpers.forking import Launcher

from dinov3.data.defect_manifest import Manifest
from dinov3.models.defect_checkpoint import load_checkpoint

STAGES = ("stage1_frozen", "stage2_finetune", "stage3_uncertainty")


def run_stages(
    python: Path, data: Manifest, save_dir: Path, *flags: str, **more: object
) -> subprocess.CompletedProcess[str]:
    settings = {
        "DATA_ROOT": data.root, "SAVE_DIR": save_dir, "BACKBONE": "dinov3_vitt16", "WEIGHTS": "none",
        "IMAGE_SIZE": "32 48", "BATCH_SIZE": 8, "NUM_WORKERS": 0, "STAGE1_EPOCHS": 1, "STAGE2_EPOCHS": 1,
        "STAGE3_EPOCHS": 1, "OMP_NUM_THREADS": 1,
    }  # fmt: skip
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {name: str(value) for name, value in (settings | more).items()} | {"PATH": path}
    command = ["bash", ROOT / "examples/train_large_dataset.sh", *flags]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_three_stages_follow_each_other_and_a_second_run_has_nothing_to_do(
    launcher: Launcher, squares: Manifest, tmp_path: Path
) -> None:
    python, test_images = launcher.python(tmp_path / "bin"), squares.root / "images/test"
    first = run_stages(python, squares, tmp_path / "ck", "--dropout", "0.3", TEST_IMAGES=test_images)
    assert first.returncode == 0, first.stderr
    stages = [load_checkpoint(tmp_path / "ck" / stage / "last.pth") for stage in STAGES]
    assert [stage["config"]["freeze_backbone"] for stage in stages] == [True, False, False]
    assert [stage["config"]["use_dynamic_weights"] for stage in stages] == [False, True, False]
    assert [stage["config"]["dropout"] for stage in stages] == [0.3] * 3
    assert "log_vars" in stages[2]["criterion"]
    assert stages[1]["config"]["init_from"].endswith("stage1_frozen/last.pth")
    assert len(list((tmp_path / "ck/results/masks").rglob("*.png"))) == 12
    # stage 2 was killed before its end: it alone is done again
    (tmp_path / "ck/stage2_finetune/last.pth").unlink()
    second = run_stages(python, squares, tmp_path / "ck", "--dropout", "0.3")
    assert second.returncode == 0 and second.stdout.count("nothing to do") == 2, second.stderr


def test_a_failing_stage_stops_the_chain(squares: Manifest, tmp_path: Path) -> None:
    done = run_stages(Path(sys.executable), squares, tmp_path / "ck", WEIGHTS="/no/such/file.pth")
    assert done.returncode == 1 and "/no/such/file.pth" in done.stderr and "Stage 2" not in done.stdout


def test_an_interrupted_stage_stops_the_chain(squares: Manifest, tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 143\n")  # as training does after SIGTERM
    python.chmod(0o755)
    env = os.environ | {"DATA_ROOT": str(squares.root), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", ROOT / "examples/train_large_dataset.sh"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 143 and "Stage 2" not in done.stdout
    batch = (ROOT / "examples/train_large_dataset.bat").read_text()
    assert batch.count("if %errorlevel% neq 0 exit /b %errorlevel%") == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_script_alone_reaches_the_training(tmp_path: Path, number: int) -> None:
    """The script waits until the training has saved, leaves with the signal's status, and starts no other stage."""
    python, log = tmp_path / "bin/python", tmp_path / "log"
    python.parent.mkdir()
    python.write_text(
        f"#!/bin/bash\ntrap 'sleep 0.3; echo saved >> {log}; exit 143' TERM\necho started >> {log}\n"
        "for _ in $(seq 200); do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    env = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(["bash", ROOT / "examples/train_large_dataset.sh"], env=env) as process:
        while not log.exists():
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(5) == 128 + number
    assert log.read_text().split() == ["started", "saved"]


def commands(script: str) -> tuple[list[str], dict[str, str]]:
    """The python commands of a .sh or .bat script with variables as {NAME}, and the defaults of its variables."""
    text = (ROOT / "examples" / script).read_text(encoding="utf-8")
    if script.endswith(".bat"):
        text = text.replace("\\", "/").replace(" || exit /b 1", "").replace("%*", "$@")
        text = re.sub(r"%(\w+)%", lambda m: "{" + m[1].upper() + "}", text)
        defaults = dict(re.findall(r'if not defined (\w+) set "\w+=(.*)"', text))
        local = dict(re.findall(r'^set "?(LAUNCH|COMMON|DEMO|SAVE_DIR)=(.*?)"?$', text, re.MULTILINE))
        local |= dict(re.findall(r"^if \S+ GTR 1 set (LAUNCH)=(.*)$", text, re.MULTILINE))
    else:
        text = text.replace('"${launch[@]}"', "$LAUNCH").replace('"${common[@]}"', "$COMMON").replace('"$@"', "$@")
        text = re.sub(r"\$(\w+)", r"{\1}", text)
        text = re.sub(r"^( *)run (?=python|\{)", r"\1", text, flags=re.MULTILINE)
        defaults = dict(re.findall(r'^(\w+)="\$\{\w+:-(.*?)\}"', text, re.MULTILINE))
        defaults.pop("TEST_IMAGES", None)  # unset and empty are the same to a .bat
        local = {n: v for n, v in re.findall(r"^(DEMO|SAVE_DIR)=([^\"\n]*)$", text, re.MULTILINE)}
        local |= {n.upper(): v for n, v in re.findall(r"^ *(launch|common)=\((.*)\)$", text, re.MULTILINE)}
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if re.match(r"(python|\{LAUNCH\}|LAUNCH=|set LAUNCH) ?examples/", line)]
    return [" ".join(line.split()) for line in found], defaults | local


@pytest.mark.parametrize("name", ["train_large_dataset", "quick_start"])
def test_the_windows_script_runs_the_same_commands(name: str) -> None:
    shell, shell_variables = commands(f"{name}.sh")
    batch, batch_variables = commands(f"{name}.bat")
    assert len(shell) >= 3 and shell == batch
    assert shell_variables == batch_variables and shell_variables


def test_quick_start_passes_the_same_settings_on_both_systems() -> None:
    shell = (ROOT / "examples/quick_start.sh").read_text()
    line = next(line for line in shell.splitlines() if "train_large_dataset.sh" in line)
    settings = dict(re.findall(r'(\w+)="?\$?(\w+)"?', line.split(" bash ")[0]))
    batch = (ROOT / "examples/quick_start.bat").read_text()
    other = dict(re.findall(r'set "(\w+)=%?([\w/]+)%?"', batch))
    assert settings.pop("SAVE_DIR") == "SAVE_DIR"  # set further up in both
    assert settings and settings.items() <= other.items()


def test_model_checks_pass_and_count_the_parameters_that_the_page_on_sizes_states(script) -> None:
    status, out, _ = script("test_model")
    assert status == 0 and out.count("ok  ") == 4 and "all checks passed" in out
    stated = table_with(read(ROOT / "MODEL_SIZE_EXPLANATION.md"), "name", "backbone", "heads", "total")
    counted = [words for line in out.splitlines() if len(words := line.split()) == 6 and f"`{words[0]}`" in stated]
    columns = ("name", "backbone", "heads", "total", "class token", "patch or stride")
    assert [[f"`{words[0]}`", *words[1:]] for words in counted] == [
        [row[c] for c in columns] for row in stated.values()
    ]


def test_model_checks_fail_when_something_is_wrong(script, monkeypatch) -> None:
    from dinov3.models.defect_classifier import DynamicWeightScheduler

    monkeypatch.setattr(DynamicWeightScheduler, "get_weights", lambda self, epoch: (1.0, 1.0))
    status, out, _ = script("test_model")
    assert status == 1 and "FAILED  weight schedule" in out
