"""The accuracy benchmark, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from accuracy import main  # noqa: E402

from dinov3.defect_errors import run_script  # noqa: E402


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the script in this process: flags -> status, stdout, stderr."""

    def run(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr("accuracy_intervals.RESAMPLES", 60)
        monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/accuracy.py"), *map(str, flags)])
        with pytest.raises(SystemExit) as exit_info:
            run_script(main)
        return int(exit_info.value.code or 0), *capfd.readouterr()

    return run
