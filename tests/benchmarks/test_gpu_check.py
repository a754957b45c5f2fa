"""The GPU check: a part that fails or hangs leaves the others, and its figures find their rows of RESULTS.md."""

from __future__ import annotations

import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import gpu_check  # noqa: E402
import gpu_check_packages  # noqa: E402
import gpu_check_run  # noqa: E402
import gpu_pack  # noqa: E402
from gpu_check_figures import list_rows  # noqa: E402
from gpu_check_packages import missing_wheels  # noqa: E402
from gpu_check_parts import Part, Place, list_parts  # noqa: E402
from gpu_check_table import fill  # noqa: E402

RESULTS = ROOT / "benchmarks/RESULTS.md"

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="the GPU check is for Linux: it ends process groups")


def python(name: str, code: str, limit: float = 60, **more: Any) -> Part:
    """A part that runs ``code``, which finds the file for its figures in ``sys.argv[1]``."""
    return Part(
        name, "", lambda seconds, figures: [sys.executable, "-c", code, str(figures)], limit, **{"least": 0.5} | more
    )


def run(monkeypatch: pytest.MonkeyPatch, out: Path, parts: list[Part], *flags: str) -> dict[str, dict[str, Any]]:
    """The rows of a dry run of ``parts``, by name."""
    monkeypatch.setattr(gpu_check, "list_parts", lambda place: parts)
    monkeypatch.setattr(gpu_check_run, "GRACE", 0.5)
    arguments = ["--out", str(out), "--work", str(out / "work"), "--dry_run", *flags]
    status = gpu_check.main(arguments)
    report = json.loads((out / "gpu_check.json").read_text())
    assert status == int(any(row["status"] != "ok" for row in report["parts"]))
    return {row["name"]: row for row in report["parts"]}


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and waits for its parent does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")


def test_a_part_that_fails_and_one_that_hangs_leave_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "child"
    hangs = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    hangs += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    hangs += f"open({str(child)!r}, 'w').write(str(child.pid)); print('begun', flush=True); time.sleep(600)"
    figures = "import json, sys; json.dump({'rows': {'fine': {'images_per_second': 123.4}}}, open(sys.argv[1], 'w'))"
    parts = [
        python("broken", "print('half way'); raise SystemExit('no such kernel')"),
        python("hangs", hangs, limit=3),
        Part("missing", "", lambda seconds, figures: ["/no/such/program"], 60),
        python("training_512", figures + "; print('all measured')"),
        python("late", "pass", limit=60, least=1e6),
    ]
    rows = run(monkeypatch, tmp_path, parts)
    statuses = {name: row["status"] for name, row in rows.items()}
    assert statuses == {
        "broken": "failed",
        "hangs": "out of time",
        "missing": "failed",
        "training_512": "ok",
        "late": "no time left",
    }
    assert "exit status 1" in rows["broken"]["error"] and "no such kernel" in rows["broken"]["error"]
    assert rows["hangs"]["error"].startswith("ended after") and "begun" in rows["hangs"]["error"]
    assert rows["hangs"]["seconds"] < 10
    assert "/no/such/program" in rows["missing"]["error"]
    pid = int(child.read_text())
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid), "what a part started goes on after it"
    printed = capsys.readouterr().out
    assert [line.split()[2] for line in printed.splitlines()[:5]] == list(rows)
    markdown = (tmp_path / "gpu_check.md").read_text()
    assert markdown in printed and "Dry run" in markdown
    assert "| GPU: ViT-B/16, 512 px, batch 16 (smp: DPT) | not measured | 123 |" in markdown
    assert "| broken | failed | 0 | exit status 1: no such kernel |" in markdown
    assert "no such kernel" in (tmp_path / "gpu_check.log").read_text()


def test_the_report_is_whole_after_every_part_and_the_time_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = tmp_path / "gpu_check.json"
    looks = f"import json; rows = json.load(open({str(report)!r}))['parts']; "
    looks += "print([row['name'] for row in rows])"
    parts = [
        python("first", "print('here')"),
        python("second", looks),
        python("greedy", "import time; time.sleep(600)", limit=600),
        python("kept", "print('ran')", share=0.5),
    ]
    start = time.monotonic()
    rows = run(monkeypatch, tmp_path, parts, "--minutes", "0.1")
    assert rows["second"]["last"] == "['first']"
    assert rows["greedy"]["status"] == "out of time" and rows["greedy"]["limit"] <= 3
    assert rows["kept"]["status"] == "ok"
    assert time.monotonic() - start < 9  # 6 seconds, and what a busy machine takes to end them


def test_only_some_parts_run_if_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    parts = [python("packages", "pass", always=True), python("one", "pass"), python("two", "pass")]
    assert list(run(monkeypatch, tmp_path, parts, "--only", "two")) == ["packages", "two"]
    with pytest.raises(SystemExit):
        gpu_check.main(["--out", str(tmp_path), "--work", str(tmp_path), "--only", "three"])
    assert "--only three: expected some of packages, one, two" in capsys.readouterr().err


def test_a_package_that_is_missing_comes_from_its_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, code in (("absent_things", "answer = 42"), ("pytest", "raise SystemExit('not the one that is here')")):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            info = f"{name}-1.0.dist-info"
            wheel.writestr(f"{name}/__init__.py", code)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    assert [wheel.name for wheel in missing_wheels(wheels)] == ["absent_things-1.0-py3-none-any.whl"]
    monkeypatch.setattr(gpu_check_packages, "least_versions", lambda: {"pytest": "999.1"})
    assert len(missing_wheels(wheels)) == 2  # one is there, but too old
    monkeypatch.undo()

    def parts(place: Place) -> list[Part]:
        uses = python("uses", "import absent_things, pytest, dinov3; print(absent_things.answer, dinov3.__file__)")
        return [list_parts(place)[0], uses]

    monkeypatch.setattr(gpu_check, "list_parts", parts)
    monkeypatch.chdir(tmp_path)
    assert gpu_check.main(["--out", "out", "--work", "work", "--dry_run", "--wheels", str(wheels)]) == 0
    rows = json.loads(Path("out/gpu_check.json").read_text())["parts"]
    assert [row["name"] for row in rows] == ["packages", "uses"]
    assert rows[1]["last"] == f"42 {ROOT / 'dinov3/__init__.py'}"[: gpu_check_run.LAST]


class Everything(dict):
    """Figures that have all that is asked for."""

    def get(self, key: Any, default: Any = None) -> Any:
        if key in ("milliseconds", "added", "images_per_second", "of_backbone", "of_matrix_rate", "flop_per_image"):
            return 0.5
        if key in ("hours", "fine/bare", "frozen/fine", "fine/smp", "peak_bytes", "reserved_bytes"):
            return 2.5e9
        if key in ("bf16", "fp16", "tf32", "off", "gpu_decode_images_per_second", "cached_images_per_second"):
            return 7e14
        if key in ("budgets", "files", "latency_ms"):
            return [1.5, 2.5, 3.5] if key == "latency_ms" else [Everything()] * 3
        if key in ("verdict", "runs", "image AP", "accuracy", "pixel IoU", "IoU per defect image"):
            return f"some {key}"
        return Everything()


MACHINE = {"device": "cuda", "gpu": "NVIDIA X", "driver": "580.1", "cores": 16, "torch": "2.11.0"}


def full_report() -> dict[str, Any]:
    """A report in which every figure is there."""
    place = Place(python="", scratch=Path("x"), work=Path("x"), data=Path("x"), wheels=[], dry_run=False)
    parts = [{"name": part.name, "figures": Everything()} for part in list_parts(place)]
    return {"machine": MACHINE, "date": "2027-01-02", "dry_run": False, "parts": parts}


def test_every_row_for_a_gpu_is_filled_and_every_figure_has_its_row() -> None:
    text, report = RESULTS.read_text(encoding="utf-8"), full_report()
    assert all(all(row.cells.values()) for row in list_rows(report)), "a part's figures are looked up by a wrong name"
    filled, notes = fill(text, report, again=True)
    assert [note for note in notes if "no row" in note or "nothing for" in note] == []
    left = [line for line in filled.splitlines() if line.startswith("| GPU") and "not measured" in line]
    assert left == []
    other = [line for line in text.splitlines() if not line.startswith("| GPU")]
    kept = [line for line in filled.splitlines() if not line.startswith(("| GPU", "GPU: NVIDIA X"))]
    assert [line for line in kept if line] == [line for line in other if line]


def test_the_results_are_filled_where_they_said_not_measured(tmp_path: Path, capsys) -> None:
    results, report = tmp_path / "RESULTS.md", tmp_path / "gpu_check.json"
    results.write_text(
        "# Figures\n\n## What training costs\n\nText.\n\n"
        "| images/s | bare backbone | fine-tuning | of the bare (aim 0.90) | odd column |\n|---|---|---|---|---|\n"
        "| CPU: small | 7 | 5 | 0.80 | 1 |\n"
        "| GPU: ViT-B/16, 512 px, batch 16 (smp: DPT) | not measured | 99 | not measured | not measured |\n"
        "\nMore text.\n"
    )
    fine = {"rows": {"bare": {"images_per_second": 512.3}, "fine": {"images_per_second": 480.0}}}
    parts = [{"name": "training_512", "figures": fine | {"ratios": {"fine/bare": 0.937}}}]
    content = {"machine": MACHINE, "date": "2027-01-02", "dry_run": False, "parts": parts}
    report.write_text(json.dumps(content))
    assert gpu_check.main(["--into", str(results), str(report)]) == 0
    filled = results.read_text()
    assert (
        "| GPU: ViT-B/16, 512 px, batch 16 (smp: DPT) | 512 | 99 | 0.94 | not measured |\n\nGPU: NVIDIA X, " in filled
    )
    assert "GPU: NVIDIA X, driver 580.1, 16 cores, torch 2.11.0, 2027-01-02.\n\nMore text.\n" in filled
    assert "| CPU: small | 7 | 5 | 0.80 | 1 |" in filled
    printed = capsys.readouterr().out
    assert "2 filled, 1 had a figure already" in printed and "nothing for the column 'odd column'" in printed
    assert gpu_check.main(["--into", str(results), str(report)]) == 0
    assert results.read_text() == filled
    report.write_text(json.dumps(content | {"dry_run": True}))
    assert gpu_check.main(["--into", str(results), str(report)]) == 1
    assert "without a GPU" in capsys.readouterr().err and results.read_text() == filled


def test_packed_are_whole_parts_of_every_type_and_always_the_same(tmp_path: Path) -> None:
    source, rows = tmp_path / "tiles", []
    for number in range(90):
        kind = ("MT_Crack" if number < 4 else "MT_Break") if number < 40 else "MT_Free"
        image = source / kind / "Imgs" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(bytes(900))
        image.with_suffix(".png").write_bytes(bytes(100))
        rows.append(f"{kind}/Imgs/{number}.jpg,part{number // 2}")
    (source / "groups.csv").write_text("\n".join(["image,group", *rows]) + "\n")
    for name in ("one", "two"):
        gpu_pack.pack_data(source, tmp_path / name, bad=12_500, good=20_000)
    kept = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert kept == {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file()}
    listed = (tmp_path / "one/groups.csv").read_text().splitlines()[1:]
    assert len(listed) == 12 + 20 and sum("MT_Crack" in line for line in listed) == 4
    assert all(listed.count(row) == (row in listed) for row in rows)
    groups = [line.split(",")[1] for line in listed]
    assert all(groups.count(group) == 2 for group in groups), "a part was cut in two"
    assert {str(path) for path in kept} == {"groups.csv"} | {
        line.split(",")[0].replace("jpg", suffix) for line in listed for suffix in ("jpg", "png")
    }


def test_a_pack_that_is_too_large_to_travel_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/large-1.0-py3-none-any.whl").write_bytes(bytes(2**20))
    assert gpu_pack.report(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "   1.00 MiB  large-1.0-py3-none-any.whl" in printed and "the working tree" in printed
    monkeypatch.setattr(gpu_pack, "LIMIT", 2**20)
    assert gpu_pack.report(tmp_path) == 1
    assert "too much to travel" in capsys.readouterr().err
