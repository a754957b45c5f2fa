"""Names of files and classes may hold anything, and do nothing to terminals, spreadsheets, pictures or TensorBoard."""

from __future__ import annotations

import codecs
import csv
import io
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TRAIN_FLAGS
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from tqdm import tqdm

from dinov3.defect_display import in_figure, on_a_line, safe_terminal
from dinov3.defect_evaluation.figures import confusion_figure
from dinov3.defect_tables import TableWriter, write_table
from dinov3.inference.prediction import Prediction
from dinov3.inference.regions import Region
from dinov3.inference.reports.pair_pictures import Pair, draw_sheet
from dinov3.inference.visualize import draw_panels

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07", "a\nb\r\nc", "\x9b31mred", "tab\there", "$\\frac{$", "$x^", "\u202egnp.evil",
    "=cmd|calc!A0", "@SUM(A1)", "-1+1", "+1", "=" * 600, "划痕\u2028", "\0", "\x7f",
]  # fmt: skip


@given(st.text())
def test_a_name_is_one_line_without_controls(name: str) -> None:
    shown = on_a_line(name)
    assert shown.isprintable() or all(c.isprintable() or not c.isascii() for c in shown)
    assert len(shown.splitlines()) <= 1 and "\x1b" not in shown
    if name.isprintable():
        assert shown == name


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    rows = [{"image": name, "defect_probability": -0.5, "count": 3} for name in HOSTILE]
    write_table(tmp_path / "table.csv", rows, ["image", "defect_probability", "count", "none"])
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8-sig") as file:
        read = list(csv.DictReader(file))
    for row, name in zip(read, HOSTILE, strict=True):
        assert row["image"][0] not in "=+-@\t\r\n" and row["image"].removeprefix("'") == name
        assert (row["defect_probability"], row["count"], row["none"]) == ("-0.5", "3", "")


def test_a_byte_order_mark_only_where_a_spreadsheet_needs_it(tmp_path: Path) -> None:
    """Programs that know none find the first column of a table in ASCII by its name."""
    path = tmp_path / "table.csv"
    with TableWriter(path, ["image", "verdict"]) as table:
        for i in range(3000):
            table.write({"image": f"{i}.png", "verdict": "accept", "more": 1})
        table.flush()
        assert path.read_text(encoding="ascii").splitlines()[:2] == ["image,verdict", "0.png,accept"]
        table.write({"image": "划痕.png"})
        table.write({"image": "os\udcff.png"})
    text = path.read_bytes()
    assert text.startswith(codecs.BOM_UTF8 + b"image,verdict\r\n") and text.count(codecs.BOM_UTF8) == 1
    assert text.decode("utf-8-sig").splitlines()[2999:] == [
        "2998.png,accept",
        "2999.png,accept",
        "划痕.png,",
        "os\\udcff.png,",
    ]


def test_what_is_printed_moves_no_cursor(capsys) -> None:
    with safe_terminal():
        for name in HOSTILE:
            print(f"{name}: accept")
            print(name, file=sys.stderr)
        for _ in tqdm(range(3), desc="inspect"):
            pass
        print("done")
    out, err = capsys.readouterr()
    assert "\\x1b[2J\\x1b]0;title\\x07: accept" in out and "done\n" in out and "tab\there" in out and "划痕" in out
    for character in "\x1b\x07\x9b\0\x7f\u202e\u2028":
        assert character not in out + err
    bar = err[err.index("inspect") - 1 :]
    assert bar.startswith("\rinspect:") and "3/3" in bar


def test_errors_of_a_script_are_shown_so_too(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples/prepare_defect_data.py", "check", tmp_path / "\x1b[31mdata"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 1 and b"\\x1b[31mdata: no such dataset" in done.stderr and b"\x1b" not in done.stderr


def test_names_in_figures_are_no_formulas() -> None:
    """As TensorBoard and the report draw them."""
    classes = ["normal", *HOSTILE]
    figure = confusion_figure(np.eye(len(classes), dtype=int), classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its font lacks glyphs
        figure.savefig(io.BytesIO(), format="png")
    figure = Figure()
    figure.subplots().set_title(in_figure("a $5 part, not $6"))
    figure.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_pictures(name: str, tmp_path: Path) -> None:
    region = Region(name, (1, 1, 4, 4), [(1, 1), (4, 1), (4, 4)], 9, 4.0, 3.0, 0.9, 0.9)
    prediction = Prediction(
        verdict="reject", predicted_class=name, probabilities={"normal": 0.1, name: 0.9}, defect_probability=0.9,
        threshold=0.5, mask=np.zeros((16, 16), np.uint8), attention=np.full((2, 2), 0.25, np.float32),
        regions=[region], milliseconds=1.0,
        decided_by=[{"kind": "rule", "rule": "max_area", "class": name, "value": 9, "most": 5, "regions": 1}],
    )  # fmt: skip
    image = np.zeros((16, 16, 3), np.uint8)
    assert draw_panels(image, prediction).any()
    draw_sheet("Missed", [Pair(name, (name, name), image)], tmp_path / "sheet.png")


def test_a_run_with_such_names_and_classes(script, tmp_path: Path, squares) -> None:
    """Through organize, training, evaluation and inspection."""
    data = shutil.copytree(squares.root, tmp_path / "data")
    for file in ("dataset.json", "manifest.csv"):
        text = (data / file).read_text(encoding="utf-8")
        text = text.replace('"defect"', '"=\\u001b[31m$x\\n$"').replace(",defect,", ',"=\x1b[31m$x\n$",')
        (data / file).write_text(text, encoding="utf-8", newline="")
    flags = ("--data_root", data, "--save_dir", tmp_path / "run", "--epochs", 1, *TRAIN_FLAGS)
    status, out, err = script("train_defect_model", *flags)
    assert status == 0 and "\x1b" not in out + err and "\\x1b[31m$x\\n$" in out, err
    (tmp_path / "in").mkdir()
    name = "=\x1b[2J\n$ä.png"
    shutil.copy(data / "images/test/001.png", tmp_path / "in" / name)
    flags = ("--checkpoint", tmp_path / "run/last.pth", "--num_workers", 0, "--device", "cpu")
    status, out, err = script(
        "inference_defect_model", *flags, "--image_dir", tmp_path / "in", "--output_dir", tmp_path / "o"
    )
    assert status == 0 and "\x1b" not in out + err, err
    with (tmp_path / "o/predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == f"'{name}"
    status, out, err = script("evaluate_defect_model", *flags, "--data_root", data, "--report_dir", tmp_path / "report")
    assert status == 0 and "\x1b" not in out + err, err
    assert (tmp_path / "report/report.html").is_file()
