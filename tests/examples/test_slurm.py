"""The Slurm script, with commands in place of the cluster's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT
from torch.distributed.run import get_args_parser

from dinov3.defect_cli import make_parser, parse
from dinov3.train.defect_config import TrainConfig

SCRIPT = ROOT / "examples/train_slurm.sh"
COMMANDS = {
    "scontrol": '[ "$1" = show ] && printf "node%d\\n" {7..20000} || echo "$@" >> "$LOG/requeued"',
    "srun": 'shift; exec "$@"',  # without its own flag
    "torchrun": 'printf "%s\\n" "$@" > "$LOG/arguments"; $TRAINING',
}


@pytest.fixture
def submit(tmp_path: Path):
    """``submit(training, *flags)`` starts the script as Slurm would, with ``training`` as what a node does."""
    for name, body in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/usr/bin/env bash\n{body}\n")
        command.chmod(0o755)

    def start(training: str, *flags: str) -> subprocess.Popen:
        slurm = {"JOB_ID": "123456", "JOB_NODELIST": "node[7-8]", "JOB_NUM_NODES": "2", "GPUS_ON_NODE": "4"}
        env = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
        env |= {"LOG": str(tmp_path), "TRAINING": training, "SLURM_SUBMIT_DIR": str(tmp_path), "BATCH_SIZE": "3"}
        env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(["bash", SCRIPT, *flags], env=env, stdout=subprocess.PIPE, text=True)

    return start


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_it_is_bash_and_asks_to_be_signalled_and_requeued() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    wanted = {line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"--signal=B:USR1@300", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= wanted


def test_torchrun_and_training_know_its_flags(submit, tmp_path: Path) -> None:
    assert submit("true", "--epochs", "7", "--lr", "1e-4").wait(30) == 0
    run = get_args_parser().parse_args((tmp_path / "arguments").read_text().splitlines())
    assert (run.nnodes, run.nproc_per_node, run.rdzv_backend) == ("2", "4", "c10d")
    assert (run.rdzv_endpoint, run.rdzv_id) == ("node7:23456", "123456.0")
    assert (ROOT / run.training_script).is_file()
    config = parse(TrainConfig, make_parser(TrainConfig, None), run.training_script_args)
    assert (config.epochs, config.lr, config.batch_size, config.resume, config.device) == (7, 1e-4, 3, True, "cuda")
    assert not (tmp_path / "requeued").exists()


def test_a_run_that_fails_is_not_tried_again(submit, tmp_path: Path) -> None:
    assert submit("exit 5").wait(30) == 5
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(("number", "is_requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_near_the_time_limit_it_saves_and_queues_again(submit, tmp_path: Path, number: int, is_requeued: bool) -> None:
    """A training process that takes a moment to save; scancel's SIGTERM reaches it without the script."""
    training = tmp_path / "training"
    training.write_text(
        "#!/usr/bin/env bash\n"
        'trap "sleep 0.5; touch $LOG/saved; exit 143" TERM\n'
        "touch $LOG/started; echo $$ > $LOG/pid.new; mv $LOG/pid.new $LOG/pid\nwhile true; do sleep 0.05; done\n"
    )
    training.chmod(0o755)
    job = submit(f"exec {training}")
    wait_for(tmp_path / "pid")
    job.send_signal(number)
    if not is_requeued:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    out, _ = job.communicate(timeout=30)
    assert job.returncode == 143 and (tmp_path / "saved").exists()
    assert (tmp_path / "requeued").exists() == is_requeued == ("back into the queue" in out)
    if is_requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 123456\n"
