"""Rules: each limit, zones, and a file's mistakes, all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from dinov3.data.defect_masks import write_mask
from dinov3.defect_errors import DefectError
from dinov3.inference.reasons import reason_text
from dinov3.inference.regions import find_regions
from dinov3.inference.rules import RuleOutcome, Rules

CLASSES = ["crack", "spot"]


@pytest.fixture
def read(tmp_path: Path):
    """``read(text)``: the rules of a file with this text."""

    def rules(text: str) -> Rules:
        path = tmp_path / "rules.yaml"
        path.write_text(text, encoding="utf-8")
        return Rules.from_yaml(path, CLASSES)

    return rules


def image() -> tuple[np.ndarray, np.ndarray]:
    """100 x 200 pixels: a crack of 40 x 2, and spots of 10 x 10 and 2 x 2; as probability and channel."""
    peak, channel = np.zeros((100, 200), np.float32), np.zeros((100, 200), np.uint8)
    peak[50:52, 20:60] = peak[10:20, 150:160] = peak[80:82, 180:182] = 0.9
    channel[:, 100:] = 1
    return peak, channel


def outcome(rules: Rules, mm_per_pixel: float | None = None) -> RuleOutcome:
    mask, regions = find_regions(*image(), CLASSES, 0.5)
    return rules.apply(regions, mask, mm_per_pixel)


def lines(outcome: RuleOutcome) -> list[str]:
    """What is said of each rule that fired."""
    return [reason_text([cause]).removeprefix("rule ") for cause in outcome.fired]


@pytest.mark.parametrize(
    ("limit", "fired"),
    [
        ("max_area: 99", "max_area: 100 > 99"),
        ("max_area: 79", "max_area: 100 > 79 (2 regions)"),
        ("max_area_mm2: 0.9", "max_area_mm2: 1.0000 > 0.9000"),
        ("max_length: 30", "max_length: 40.0 > 30.0"),
        ("max_length_mm: 2", "max_length_mm: 4.0 > 2.0"),
        ("max_length_mm: 3.99", "max_length_mm: 4.01 > 3.99"),
        ("max_width: 9", "max_width: 10 > 9"),
        ("max_width_mm: 0.99", "max_width_mm: 1.0000 > 0.9900"),
        ("max_total_area: 183", "max_total_area: 184 > 183"),
        ("max_total_area_mm2: 1.8", "max_total_area_mm2: 1.84 > 1.80"),
        ("max_total_fraction: 0.009", "max_total_fraction: 0.0092 > 0.0090"),
        ("max_count: 2", "max_count: 3 > 2"),
    ],
)
def test_each_limit_fires_above_its_value_and_says_so(read, limit: str, fired: str) -> None:
    (line,) = lines(outcome(read(f"limits: {{{limit}}}"), 0.1))
    key, _, rest = fired.partition(": ")
    assert line.startswith(f"{key}: ") and line.count(" > ") == 1
    if not key.startswith("max_length"):
        assert line == fired
    assert outcome(read(f"limits: {{{key}: {1 if 'fraction' in key else 1000}}}"), 0.1) == RuleOutcome(True, [])


def test_a_value_at_its_limit_passes(read) -> None:
    assert outcome(read("limits: {max_area: 100, max_count: 3, max_width: 10, max_total_fraction: 0.0092}")).passed


def test_limits_of_a_class_see_that_class_alone(read) -> None:
    rules = read("limits: {max_count: 3}\nclasses:\n  crack: {max_length: 20}\n  spot: {max_count: 1, max_length: 20}")
    result = outcome(rules)
    assert not result.passed and [line.split(":")[0] for line in lines(result)] == [
        "max_length crack",
        "max_count spot",
    ]
    assert lines(outcome(read("classes: {crack: {max_count: 0}}"))) == ["max_count crack: 1 > 0"]


def test_millimetres_without_a_scale_name_both(read) -> None:
    rules = read("limits: {max_count: 3}\nclasses: {crack: {max_length_mm: 2.0}}")
    with pytest.raises(DefectError, match="max_length_mm of crack.*--mm_per_pixel"):
        outcome(rules)
    assert outcome(rules, 0.04).passed and not outcome(rules, 0.06).passed


IGNORE_RIGHT = {
    "fractions": "[[0.2, 0], [1, 0], [1, 1], [0.2, 1]]",
    "pixels": "[[40, 0], [200, 0], [200, 100], [40, 100]]",
    "beyond the image": "[[40, 0], [900, 0], [900, 900], [40, 900]]",
    "mask image": "zone.png",
    "mask of another size": "small.png",
}


@pytest.mark.parametrize("zone", IGNORE_RIGHT.values(), ids=IGNORE_RIGHT)
def test_a_region_partly_in_an_ignore_zone_is_measured_on_the_rest(read, tmp_path: Path, zone: str) -> None:
    marked = np.zeros((100, 200), np.uint8)
    marked[:, 40:] = 255
    Image.fromarray(marked).save(tmp_path / "zone.png")
    write_mask(tmp_path / "small.png", marked[:50:10, ::20] // 255)
    result = outcome(read(f"ignore_zones: [{zone}]\nlimits: {{max_area: 39, max_count: 0}}"))
    assert lines(result) == ["max_area: 40 > 39", "max_count: 1 > 0"]


@pytest.mark.parametrize("mode", ["grey", "colour", "alpha", "jpeg"])
def test_all_of_a_zone_counts_however_dark_it_is_drawn(read, tmp_path: Path, mode: str) -> None:
    drawn = np.zeros((100, 200), np.uint8)
    drawn[:50], drawn[50:, :100] = 60, 200
    name = "zone.jpg" if mode == "jpeg" else "zone.png"
    color = {"colour": [drawn * 0, drawn, drawn * 0], "alpha": [drawn, drawn, drawn, (drawn > 0) * np.uint8(9)]}
    Image.fromarray(np.dstack(color[mode]) if mode in color else drawn).save(tmp_path / name)
    kept = read(f"regions_of_interest: [{name}]").keep((100, 200))
    assert np.mean(kept == (drawn > 0)) > (0.99 if mode == "jpeg" else 0.99999)


def test_only_regions_of_interest_count_less_the_ignored_part(read) -> None:
    text = (
        "regions_of_interest: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]], [[0.7, 0], [1, 0], [1, 0.5], [0.7, 0.5]]]\n"
        "ignore_zones: [[[20, 40], [30, 40], [30, 60], [20, 60]]]\nlimits: {max_count: 0, max_total_area: 0}"
    )
    rules = read(text)
    assert lines(outcome(rules)) == ["max_count: 2 > 0", "max_total_area: 160 > 0"]
    # The caller may leave out what does not count beforehand: the same outcome.
    mask, regions = find_regions(*image(), CLASSES, 0.5, keep=rules.keep((100, 200)))
    assert [region.area for region in regions] == [100, 60] and rules.apply(regions, mask) == outcome(rules)


def test_zones_follow_each_image_of_a_folder(read) -> None:
    rules = read("ignore_zones: [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]")
    for shape in ((100, 200), (60, 40), (100, 200)):
        keep = rules.keep(shape)
        assert keep.shape == shape and not keep[:, : shape[1] // 2].any() and keep[:, shape[1] // 2 :].all()
    assert read("limits: {max_count: 1}").keep((5, 5)) is None


def test_zones_that_leave_nothing_do_not_pass(read) -> None:
    rules = read("regions_of_interest: [[[500, 500], [600, 500], [600, 600]]]\nlimits: {max_count: 9}")
    result = outcome(rules)
    assert not result.passed and "nothing of this 200x100 image" in lines(result)[0]


def test_who_decides(read) -> None:
    assert not outcome(read("limits: {max_count: 9}")).alone
    assert not outcome(read("verdict: both\nlimits: {max_count: 9}")).alone
    assert outcome(read("verdict: rules\nlimits: {max_count: 9}")).alone


BAD = """
verdit: rules
limits: {max_aera: 4, max_length_mm: -1, max_count: 1.5, max_area: yes, max_width: .nan, max_total_fraction: 3}
classes:
  crak: {max_area: 3}
  crack: 4
  spot: {max_area: 3, max_area: 4, max_width: ten}
ignore_zones: [absent.png, [[1, 2], [3, 4]], [[1, 2, 3]], 4, [[-1, 0], [9, 0], [9, 9]]]
regions_of_interest: zone.png
"""


def test_all_mistakes_of_a_file_are_reported_at_once(read) -> None:
    with pytest.raises(DefectError) as error:
        read(BAD)
    text = str(error.value)
    expected = [
        "rules.yaml: 17 problems",
        "verdit: found 'verdit', expected one of verdict, limits",
        "did you mean verdict?",
        "limits.max_aera",
        "did you mean max_area?",
        "limits.max_length_mm: found -1, expected a number from 0",
        "limits.max_count: found 1.5, expected a whole number",
        "limits.max_area: found True",
        "limits.max_width: found nan",
        "limits.max_total_fraction: found 3, expected a number from 0 to 1",
        "classes.crak",
        "did you mean crack?",
        "classes.crack: found 4, expected a table",
        "max_area: given twice (line 7)",
        "classes.spot.max_width: found 'ten'",
        "ignore_zones[1]: found 'absent.png'",
        "no such file",
        "ignore_zones[2]: found [[1, 2], [3, 4]], expected three or more corners",
        "ignore_zones[3]",
        "ignore_zones[4]: found 4",
        "ignore_zones[5]",
        "regions_of_interest: found 'zone.png', expected a list",
    ]
    assert [part for part in expected if part not in text] == []
    assert len(text.splitlines()) == 18


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no table of keys"),
        ("- a", "no table of keys"),
        ("limits: {", "not readable YAML"),
        ("verdict: rule\nlimits: {max_count: 1}", "found 'rule', expected both or rules; did you mean rules?"),
        ("verdict: rules", "would accept every image"),
        ("verdict: [both]", "expected both or rules"),
        ("limits: {max_area: 1, 7: 2}", "expected one of max_area"),
        ("limits: {max_count: .inf}", "expected a whole number"),
    ],
)
def test_a_file_that_says_nothing_usable_is_refused(read, text: str, message: str) -> None:
    with pytest.raises(DefectError, match="rules.yaml") as error:
        read(text)
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefectError, match="absent.yaml: no such file"):
        Rules.from_yaml(tmp_path / "absent.yaml", CLASSES)


def test_the_example_file_is_valid() -> None:
    rules = Rules.from_yaml(ROOT / "examples/rules_example.yaml", ["defect"])
    assert len(rules.limits) == 8 and len(rules.ignore_zones) == 1 and len(rules.regions_of_interest) == 1
    assert (~rules.keep((100, 200))).sum() == 5 * 10
