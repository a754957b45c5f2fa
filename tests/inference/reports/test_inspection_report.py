"""The inspection report without a browser: what is in the file, and what writing it costs."""

from __future__ import annotations

import base64
import io
import tracemalloc

import numpy as np
import pytest
from helpers.report_page import HOSTILE, Page, picture, record, rule, write, writer
from PIL import Image

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.risk_control import Promise
from dinov3.defect_evaluation.thresholds import Thresholds
from dinov3.inference.reports.spool import SIDE


def test_every_image_counts_and_each_verdict_follows_from_the_numbers_in_the_page(tmp_path):
    p = np.random.default_rng(0).uniform(0, 1, 300).round(6)
    page = write(tmp_path / "report.html", [record(f"{i}.png", float(v)) for i, v in enumerate(p)])
    embedded, mildest, strictest = page.probabilities
    np.testing.assert_allclose(embedded, p, atol=1e-9)
    assert not mildest.any()
    assert (strictest == 2).all()
    counts = {"accept": int((p < 0.3).sum()), "reject": int((p >= 0.6).sum())}
    assert page.json("report")["counts"] == counts | {"review": 300 - sum(counts.values())}
    assert len(page.json("rows")) == len(page.pictures()) == 300


@pytest.mark.parametrize("limit", [0.9999997, 0.4999999, 3e-7, 1 + 1e-6, 0.6])
def test_the_page_gives_an_image_near_a_limit_the_verdict_that_it_had(tmp_path, limit: float):
    """Without a word of rules or disagreements, as there are none."""
    thresholds = Thresholds(limit, 0.5)
    values = [min(max(limit + step, 0.0), 1.0) for step in (-4e-7, -1e-7, 0.0, 1e-7, 4e-7)]
    entries = [record(f"{i}.png", v, thresholds.verdict(v)) for i, v in enumerate(values)]
    page = write(tmp_path / "report.html", entries, thresholds=thresholds)
    embedded, mildest, strictest = page.probabilities
    here = max(round(limit * 1e6), 1) / 1e6  # as the script has the limit
    assert (embedded >= here - 1e-9).tolist() == [v >= limit for v in values]
    assert not mildest.any() and (strictest == 2).all()


def test_names_classes_reasons_and_errors_can_hold_anything(tmp_path):
    plain = write(tmp_path / "plain.html", [record("a.png", 0.9), {"image": "b.png", "error": "broken"}])
    entries = [record(name, 0.9, decided_by=[rule(name)]) for name in HOSTILE] + [
        {"image": n, "error": n} for n in HOSTILE
    ]
    hostile = HOSTILE[0]
    for entry in entries[: len(HOSTILE)]:
        entry.update({f"prob_{hostile}": 0.1, "predicted_class": hostile})
    page = write(
        tmp_path / "report.html",
        entries,
        classes=["normal", hostile],
        title=hostile,
        checkpoint=HOSTILE[1],
        source=HOSTILE[5],
        calibration={"target": hostile, "promise": HOSTILE[1]},
    )
    assert sorted(row["name"] for row in page.json("rows")) == sorted(HOSTILE)
    assert page.json("report")["classes"][1] == hostile
    for name in HOSTILE:
        assert name in page.text
    scripts = [len([tag for tag, _ in p.tags if tag == "script"]) for p in (plain, page)]
    assert scripts[0] == scripts[1]
    assert not [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]


def test_the_most_suspicious_images_are_shown_and_the_others_counted(tmp_path):
    entries = [record(f"accept{i}.png", i / 100) for i in range(20)]
    entries += [record("rule.png", 0.02, "reject", decided_by=[rule()]), record("sure.png", 0.95)]
    entries += [record("band.png", 0.4), record("odd.png", 0.05, disagreement=True)]
    entries += [{"image": f"bad{i}.png", "error": f"bad{i}.png: broken"} for i in range(9)]
    page = write(tmp_path / "report.html", entries, max_images=6)
    names = [row["name"] for row in page.json("rows")]
    assert names == ["sure.png", "band.png", "rule.png", "odd.png", "accept19.png", "accept18.png"]
    assert len(page.pictures()) == 6
    assert len(page.probabilities[0]) == 24
    assert "18 more images count" in page.text
    assert "另有 18 张" in page.text
    assert "bad5.png" in page.text
    assert "bad6.png" not in page.text
    assert "3 more are in errors.csv" in page.text


def test_thresholds_do_not_undo_what_rules_and_disagreements_decided(tmp_path):
    odd = {"kind": "disagreement", "regions": 1, "probability": 0.2, "threshold": 0.3, "limit": "review"}
    nothing = {"kind": "nothing_left", "width": 9, "height": 9}
    entries = [
        record("rule.png", 0.1, "reject", decided_by=[rule()]),
        record("both.png", 0.7, "reject", decided_by=[*record("", 0.7)["decided_by"], rule("max_count")]),
        record("blind.png", 0.7, "reject", decided_by=[*record("", 0.7)["decided_by"], nothing]),
        record("odd.png", 0.2, "review", decided_by=[odd]),
        record("alone.png", 0.7, "accept", decided_by=[{"kind": "no_rule_fired"}]),
        record("alone too.png", 0.1, "accept", decided_by=[{"kind": "no_rule_fired"}]),
        record("plain.png", 0.7),
    ]
    page = write(tmp_path / "report.html", entries)
    assert page.probabilities[1].tolist() == [2, 2, 2, 1, 0, 0, 0]
    assert page.probabilities[2].tolist() == [2, 2, 2, 2, 0, 0, 2]
    assert "6 verdict(s) came from rules" in page.text
    reasons = {row["name"]: row["reasons"] for row in page.json("rows")}
    assert reasons["rule.png"] == ["rule max_area_mm2 crack: 9 > 2", "规则 max_area_mm2 crack：9 > 2"]
    assert reasons["alone.png"] == ["no rule fired", "未触发任何规则"]


def test_records_from_before_the_first_version_have_their_reason_as_text_alone(tmp_path):
    why = "defect probability 0.70 >= 0.60"
    reasons = {
        "rule": "rule max_area_mm2: crack 9.0 > 2.0",
        "both": f"{why}; rule max_count: crack 3 > 2",
        "alone": "no rule fired",
        "alone too": "no rule fired",
        "plain": why,
    }
    p = {"rule": 0.1, "alone too": 0.1}
    done = [record(n, p.get(n, 0.7), "accept" if "alone" in n else "reject", reason=r) for n, r in reasons.items()]
    for entry in done:
        del entry["decided_by"]
    with writer(tmp_path / "report.html", done=done) as report:
        report.add(record("new", 0.7))
    page = Page(tmp_path / "report.html")
    assert page.probabilities[1].tolist() == [2, 2, 0, 0, 0, 0]
    assert page.probabilities[2].tolist() == [2, 2, 0, 0, 2, 2]
    shown = {row["name"]: row["reasons"] for row in page.json("rows")}
    assert shown.pop("new") == ["defect probability 0.70 >= 0.30 (review limit)", "缺陷概率 0.70 >= 0.30（复检阈值）"]
    assert shown == {name: [reason, reason] for name, reason in reasons.items()}


def test_without_a_review_band_the_review_limit_is_the_reject_limit(tmp_path):
    entry = record("a.png", 0.5, "accept")
    page = write(tmp_path / "report.html", [entry], thresholds=Thresholds(0.6, 0.5))
    assert (page.json("report")["review"], page.json("report")["reject"]) == (0.6, 0.6)
    assert page.probabilities[1].tolist() == [0]


def test_what_calibration_promised_is_on_the_page(tmp_path):
    facts = {"images": 211, "defects": 57, "target": "miss rate 1%", "promise": "at most 1% missed", "ece_before": 0.04}
    page = write(tmp_path / "a.html", [record("a.png", 0.5)], calibration=facts | {"ece_after": 0.0123})
    for text in ("miss rate 1%", "at most 1% missed", "211", "57 with a defect", "0.040 → 0.012"):
        assert text in page.text
    promises = [Promise("miss rate", 0.05, None, 40, 20), Promise("overkill", 0.01, 0.95, 100, 100)]
    facts |= {"target_values": {"max_miss_rate": 0.05}, "promises": [promise.record() for promise in promises]}
    page = write(tmp_path / "c.html", [record("a.png", 0.5)], calibration=facts)
    for text in (
        "漏检率不超过 5.00%（对校准集取平均），依据 40 张缺陷图像（来自 20 个工件）；至少需要 19 个",
        "无法保证 1.00%：需要 299 张正常图像，而只有 100 张。目前最多能保证：过杀率不超过 2.95%（置信度 95%）",
        *map(str, promises),
    ):
        assert text in page.text
    assert "No promise comes with this inspection" in write(tmp_path / "b.html", [record("a.png", 0.5)]).text


@pytest.mark.parametrize("entries", [[], [{"image": "a.png", "error": "a.png: empty file"}]])
def test_a_run_without_a_good_image_has_a_page_too(tmp_path, entries):
    page = write(tmp_path / "report.html", entries)
    assert page.json("rows") == []
    assert len(page.probabilities[0]) == 0
    assert ("empty file" in page.text) == bool(entries)


def decode(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_a_thumbnail_is_small_and_shows_the_smallest_defect_where_it_is(tmp_path):
    mask = np.zeros((3000, 2000), np.uint8)
    mask[2400, 500] = 2
    display = np.full((640, 427, 3), (200, 100, 50), np.uint8)
    with writer(tmp_path / "report.html") as report:
        report.add(record("a.png", 0.9), display, mask)
        report.add(record("b.png", 0.8), display[..., :1].repeat(3, 2), np.zeros_like(mask))
    (photo, marks), (grey, nothing) = Page(tmp_path / "report.html").pictures()
    assert decode(photo).size == decode(marks).size == (107, SIDE)
    assert decode(photo).getpixel((50, 50)) == pytest.approx((200, 100, 50), abs=6)
    alpha = np.asarray(decode(marks).convert("RGBA"))
    assert np.argwhere(alpha[..., 3]).tolist() == [[2400 * SIDE // 3000, 500 * 107 // 2000]]
    assert tuple(alpha[128, 26, :3]) == (86, 180, 233)  # the colour of class 2
    assert decode(grey).mode == "L"
    assert nothing == ""


def test_an_image_smaller_than_a_thumbnail_stays_as_it_is(tmp_path):
    with writer(tmp_path / "report.html") as report:
        report.add(record("a.png", 0.9), np.zeros((5, 9, 3), np.uint8), np.ones((2, 3), np.uint8))
    photo, marks = Page(tmp_path / "report.html").pictures()[0]
    assert decode(photo).size == decode(marks).size == (9, 5)
    assert (np.asarray(decode(marks).convert("RGBA"))[..., 3] > 0).all()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    image, mask = picture(size=96)

    def peak(images: int) -> tuple[int, int]:
        tracemalloc.start()
        report = writer(tmp_path / f"{images}.html", max_images=40)
        for i in range(images):
            report.add(record(f"{i}.png", i / images), image, mask)
        size = (tmp_path / f"{images}.spool").stat().st_size
        report.close()
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest, size

    peak(50)  # imports and caches
    (few, small), (many, large) = peak(100), peak(900)
    assert large - small > 4_000_000
    assert many - few < 100_000


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DefectError, match=r"missing.report\.html: cannot be written \(No such file"):
        writer(tmp_path / "missing" / "report.html")


def test_the_four_panel_picture_is_looked_for_under_the_name_that_the_mask_has(tmp_path):
    page = write(tmp_path / "a.html", [record("x.png", 0.9, mask="masks/long~1a2b.png"), record("y/z.png", 0.8)])
    assert [row["picture"] for row in page.json("rows")] == ["long~1a2b.png", "y/z.png.png"]
    assert page.json("report")["panels"] == ""
    (tmp_path / "visualizations").mkdir()  # of another run: its pictures show other verdicts
    assert write(tmp_path / "a.html", [record("x.png", 0.9)]).json("report")["panels"] == ""
    page = write(tmp_path / "a.html", [record("x.png", 0.9)], panels=True)
    assert page.json("report")["panels"] == "visualizations"
