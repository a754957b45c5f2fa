"""The documents: links and paths lead somewhere, commands are understood, and figures are those of RESULTS.md."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.documents import broken_links, commands, inline_code, read, table_with, tables, without_code

sys.path += [str(ROOT / "benchmarks"), str(ROOT / "examples/deploy")]
FOLDERS = ("benchmarks", "dinov3", "docs", "examples", "tests")
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")))
)
RESULTS = read(ROOT / "benchmarks/RESULTS.md")
PLACES = ("examples", "examples/deploy", "benchmarks")
SCRIPTS = {path.name: path for folder in PLACES for path in (ROOT / folder).glob("[a-z]*.py")}
# words of commands that stand for something of the reader's
PLACEHOLDERS = {"FORMAT": "coco", "...": "--data_root=data/dataset"}
# flags of torchrun, sbatch, tensorboard and ray
FOREIGN_FLAGS = set("--standalone --nproc_per_node --nnodes --nodes --dependency --logdir --help --head".split())
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=str)


class ParserFoundError(Exception):
    """Carries the parser that a script was about to use."""


@functools.cache
def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser of a script in one of ``PLACES``: the one that its ``main`` parses flags with."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise ParserFoundError(parser)

    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module(Path(script).stem)
        patch.setattr(sys, "argv", [script])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        if hasattr(module, "build_parser"):  # some parse only the flags they know
            return module.build_parser()
        with pytest.raises(ParserFoundError) as found:
            module.main()
    return found.value.args[0]


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its flags and those of its commands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*(flags_of(command) for command in action.choices.values()))
    return found


@functools.cache
def every_flag() -> set[str]:
    """The flags of all scripts."""
    runnable = [name for name, path in SCRIPTS.items() if "__main__" in read(path)]
    return set().union(*(flags_of(parser_of(name)) for name in runnable))


@every_document
def test_links_and_anchors_lead_somewhere(document: Path) -> None:
    assert broken_links(ROOT / document) == []


@every_document
def test_files_of_the_repository_that_a_document_names_are_there(document: Path) -> None:
    named = re.findall(
        r"(?:dinov3|examples|benchmarks|tests|docs)/[\w./-]+", "\n".join(inline_code(read(ROOT / document)))
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@every_document
def test_commands_are_understood_by_the_scripts_they_run(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(read(ROOT / document)):
        words = [PLACEHOLDERS.get(word, word) for word in words]
        variables = [word.partition("=")[0] for word in words if re.match(r"[A-Z_0-9]+=", word)]
        at = next((i for i, word in enumerate(words) if re.match(r"(examples|benchmarks|tests)/", word)), None)
        if at is None:
            continue  # of another tool
        script, arguments = words[at], words[at + 1 :]
        assert (ROOT / script).is_file(), " ".join(words)
        if script.endswith(".sh"):
            known = read(ROOT / script) + "HF_ENDPOINT PIP_INDEX_URL"
            assert [name for name in variables if name not in known] == [], " ".join(words)
            if not arguments or "train" not in script:
                continue
            script, arguments = "train_defect_model.py", ["--data_root=x", *arguments]
        try:
            parser_of(script).parse_args(arguments)
        except SystemExit as stop:
            assert stop.code == 0, f"{' '.join(words)}\n{capsys.readouterr().err}"


@every_document
def test_flags_that_a_document_names_exist(document: Path) -> None:
    for code in inline_code(read(ROOT / document)):
        words = code.split()
        script = next((word.rpartition("/")[2] for word in words if word.endswith(".py")), "")
        flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
        known = flags_of(parser_of(script)) if flags and script in SCRIPTS else every_flag()
        assert flags <= known | FOREIGN_FLAGS, code


def test_readme_can_be_read_in_one_sitting() -> None:
    assert len(read(ROOT / "README.md").split()) <= 1500


@every_document
def test_figures_stand_in_the_results(document: Path) -> None:
    """Numbers with three decimals or more: nobody types these but from a measurement."""
    measured = set(re.findall(r"[\d.]+\d", RESULTS))
    figures = re.findall(r"(?<![\d.])\d{1,3}\.\d{3,}(?![\d.])", without_code(read(ROOT / document)))
    assert [figure for figure in figures if figure not in measured] == []


COLUMNS = {
    "image AP": ("image average precision", "图像级平均精度"),
    "accuracy": ("accuracy", "准确率"),
    "pixel IoU": ("pixel IoU", "像素 IoU"),
    "IoU per defect image": ("IoU per defect image", "缺陷图像的平均 IoU"),
}
ROWS = {
    "default, full decoder": ("this model", "本模型"),
    "U-Net with class head": ("U-Net, same encoder and training", "U-Net，编码器与训练方式相同"),
    "default, random split": ("this model, random split, one run", "本模型，随机划分，一次运行"),
}


@pytest.mark.parametrize(("document", "language"), [("README.md", 0), ("README.zh-CN.md", 1)])
def test_accuracy_in_the_readme_is_that_of_the_results(document: str, language: int) -> None:
    measured = table_with(RESULTS, "runs", *COLUMNS)
    shown = table_with(read(ROOT / document), *(names[language] for names in COLUMNS.values()))
    assert list(shown) == [names[language] for names in ROWS.values()]
    for row, row_names in ROWS.items():
        for column, column_names in COLUMNS.items():
            assert shown[row_names[language]][column_names[language]] == measured[row][column], (row, column)


def test_accuracy_of_the_schemes_is_that_of_the_results() -> None:
    shown = table_with(read(ROOT / "examples/IMPLEMENTATION_GUIDE.md"), "variant", "default minus it, image AP")
    columns = ("image AP", "accuracy at 0.5", "pixel IoU", "IoU per defect image")
    means, differences = table_with(RESULTS, "runs", *columns), table_with(RESULTS, "pairs", *columns)
    assert list(shown) == list(means)
    for name, row in shown.items():
        assert row | means[name] == means[name] | row, name
        assert row["default minus it, image AP"] == (differences[name]["image AP"] if name in differences else "")


@pytest.mark.parametrize(
    ("document", "minutes"), [("README.md", "{} to {} minutes"), ("README.zh-CN.md", "{} 至 {} 分钟")]
)
def test_quick_start_promises_what_was_measured(document: str, minutes: str) -> None:
    text = read(ROOT / document)
    demo = {name: row["measured"] for name, row in table_with(RESULTS, "the demo", "measured").items()}
    images, precision = next((n, v.split(",")[0]) for n, v in demo.items() if n.startswith("test split"))
    accuracy = next(v.split(",")[0] for n, v in demo.items() if n.startswith("accuracy") and "calibrated" in n)
    count = re.search(r"\d+", images)[0]
    line = next(line for line in text.splitlines() if precision in line)
    assert accuracy in line and count in text
    times = re.findall(r"(\d+) min (\d+) s", demo["everything after it"])
    assert minutes.format(*(round(int(m) + int(s) / 60) for m, s in times)) in text
    seconds = [int(s) for s in re.findall(r"(\d+) s", next(v for n, v in demo.items() if n.startswith("install")))]
    assert {round(s / 60) for s in seconds} == {1} and re.search(r"\b1 minute|1 分钟", text)


@pytest.mark.parametrize("document", ["README.md", "README.zh-CN.md"])
def test_sizes_of_the_backbones_are_those_of_the_page_on_sizes(document: str) -> None:
    counted = table_with(read(ROOT / "MODEL_SIZE_EXPLANATION.md"), "name", "backbone", "heads", "total")
    shown = next(table for table in tables(read(ROOT / document)) if "`efficientnet_lite0`" in table)
    for row, cells in shown.items():
        names = re.findall(r"`(\w+)`", row)  # dinov3_vits16, vits16plus
        names = [name if "_" in name else f"{names[0].rpartition('_')[0]}_{name}" for name in names]
        sizes = list(cells.values())[1]  # the second column, whatever its name
        assert re.findall(r"[\d.]+", sizes) == [f"{float(counted[f'`{n}`']['backbone']):.1f}" for n in names], row
