"""Configuration dataclasses: what a user can type, what a YAML file can hold, and what a checkpoint remembers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from dinov3.defect_cli import (
    Fraction,
    PositiveInt,
    flag,
    make_parser,
    parse,
    precision_flag,
    to_record,
    with_today_names,
)
from dinov3.defect_errors import DefectError
from dinov3.defect_size_flag import SizeInPixels


@dataclass(frozen=True, kw_only=True)
class Settings:
    config: Path | None = flag(None, "YAML file")
    data: Path = flag(help="a folder")
    size: SizeInPixels = flag(512, "of images")
    epochs: PositiveInt = flag(3, "passes", group="optimization")
    share: Fraction | None = flag(None, "of something")
    freeze_batch_norm: bool | None = flag(None, "statistics stay", aliases=("rest_norms",))
    decoder: Literal["multiscale", "light"] = flag("multiscale", "kind")
    folders: tuple[Path, ...] = flag((), "several", metavar="DIR")
    mixed_precision: Literal["auto", "off", "bf16"] = precision_flag()


@dataclass(frozen=True, kw_only=True)
class Inspect:
    image: Path | None = flag(None, "one", either="input")
    image_dir: Path | None = flag(None, "many", either="input")
    no_report: bool = flag(False, "faster")


def read(*argv: object, kind: type = Settings) -> object:
    return parse(kind, make_parser(kind, "text"), [str(word) for word in argv])


def test_flags_take_their_type_range_and_default_from_the_field(capsys: pytest.CaptureFixture[str]) -> None:
    config = read("--data", "d", "--epochs", 5, "--folders", "a", "b", "--mixed_precision", "--no-freeze_batch_norm")
    expected = Settings(
        data=Path("d"), epochs=5, folders=(Path("a"), Path("b")), mixed_precision="auto", freeze_batch_norm=False
    )
    assert config == expected
    for argv, message in (
        (("--data", "d", "--epochs", "0"), "argument --epochs: 0: expected a whole number from 1"),
        (("--data", "d", "--share", "2"), "argument --share: 2.0: expected a number from 0 to 1"),
        (("--data", "d", "--size", "48", "0"), "argument --size: 0: expected a whole number from 1"),
        (("--data", "d", "--size", "48", "-96"), "argument --size: -96: expected a whole number from 1"),
        (
            ("--data", "d", "--size", "1", "2", "3"),
            "argument --size: 1 2 3: expected one number for a square, or height",
        ),
        (("--data", "d", "--decoder", "heavy"), "invalid choice: 'heavy'"),
        ((), "the following arguments are required: --data"),
    ):
        with pytest.raises(SystemExit, match="2"):
            read(*argv)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        read("--image", "a", "--image_dir", "b", kind=Inspect)
    assert "not allowed with argument" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        read(kind=Inspect)
    assert read("--image", "a", "--no_report", kind=Inspect) == Inspect(image=Path("a"), no_report=True)


@pytest.mark.parametrize(
    ("words", "size", "record"), [([], 512, 512), ([64], 64, 64), ([64, 64], 64, 64), ([48, 96], (48, 96), [48, 96])]
)
def test_a_size_is_a_square_or_height_and_width(tmp_path: Path, words: list[int], size: object, record: object) -> None:
    config = read("--data", "d", *(["--size", *words] if words else []))
    assert (config.size, to_record(config)["size"]) == (size, record)
    (tmp_path / "c.yaml").write_text(f"data: d\nsize: {words or ''}\n")
    assert read("--config", tmp_path / "c.yaml").size == size
    (tmp_path / "c.yaml").write_text(f"data: d\nsize: {record}\n")
    assert read("--config", tmp_path / "c.yaml").size == size


def test_former_names_work_everywhere_and_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read("--data", "d", "--rest_norms").freeze_batch_norm is True
    assert read("--data", "d", "--no-rest_norms").freeze_batch_norm is False
    (tmp_path / "c.yaml").write_text("data: d\nrest_norms: false\nfolders: [a, b]\nepochs:\n")
    config = read("--config", tmp_path / "c.yaml")
    assert (config.freeze_batch_norm, config.folders, config.epochs) == (False, (Path("a"), Path("b")), 3)
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    shown = capsys.readouterr().out
    assert "--freeze_batch_norm" in shown and "rest_norms" not in shown and "optimization:" in shown
    record = with_today_names(Settings, {"data": "d", "rest_norms": True})
    assert (record["freeze_batch_norm"], record["epochs"], "rest_norms" in record) == (True, 3, False)


def test_flags_win_over_yaml_and_all_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: d\nepochs: 7\nfreeze_batch_norm: true\nmixed_precision: off\n")
    config = read("--config", path, "--epochs", 2, "--no-freeze_batch_norm")
    assert (config.epochs, config.freeze_batch_norm, config.mixed_precision) == (2, False, "off")
    assert to_record(config)["config"] == str(path)
    path.write_text("size: [1, 2, 3]\nepoch: 3\nepochs: 0\nno-freeze_batch_norm: true\ndecoder: heavy\nshare: [1]\n")
    with pytest.raises(DefectError, match="6 problems") as caught:
        read("--config", path)
    for part in (
        "epoch: no such flag; known are data",
        "epochs: 0 is not valid",
        "size: [1, 2, 3] is not valid",
        "no-freeze_batch_norm: no such",
        "light",
    ):
        assert part in str(caught.value)
