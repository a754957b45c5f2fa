"""What decided a verdict: data first, and the text made from it, in English and in Chinese.

``decided_by``, in :class:`~dinov3.inference.verdict.Verdict` and in ``predictions.json``, lists every cause of a
verdict. A cause is a dict of JSON values with a ``kind``:

================= ======================================================================================================
kind              what it says, and its other keys
================= ======================================================================================================
``probability``   the classifier's limit decided: ``probability`` (of a defect, 0 to 1), ``threshold`` (0 to 1),
                  ``limit`` (which one that is: ``reject`` or ``review``)
``novelty``       the image has a place unlike good parts, which raised the probability before it: ``deviations`` (in
                  standard deviations of good images), ``x``, ``y`` (pixels)
``disagreement``  the mask holds ``regions`` (a count), though the classifier accepts: ``probability``, ``threshold``
                  and ``limit`` as above
``rule``          a limit of the rules file was exceeded: ``rule`` (its key), ``class`` (or null: all), ``value``,
                  ``most`` (what is allowed), ``regions`` (how many of them break it)
``nothing_left``  the rules' zones leave nothing to inspect of this image of ``width`` x ``height`` pixels
``no_rule_fired`` the rules decide alone, and none did
================= ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Cause = dict[str, Any]

SHOWN = 2  # causes in a text; the data has all
LANGUAGES = ("en", "zh")

VERDICT_NAMES = {"accept": ("accept", "合格"), "review": ("review", "复检"), "reject": ("reject", "不合格")}

# By kind: English and Chinese.
TEXTS = {
    "probability": ("defect probability {comparison}", "缺陷概率 {comparison}"),
    "review": ("defect probability {comparison} (review limit)", "缺陷概率 {comparison}（复检阈值）"),
    "novelty": (", unlike good parts at ({x},{y})", "，与良品不相似，位置 ({x},{y})"),
    "disagreement": (
        "mask and classifier disagree: {regions} region{s}, but defect probability {comparison}",
        "掩码与分类结果不一致：有 {regions} 个缺陷区域，但缺陷概率 {comparison}",
    ),
    "rule": ("rule {rule}{class_name}: {comparison}{count}", "规则 {rule}{class_name}：{comparison}{count}"),
    "nothing_left": (
        "rule regions_of_interest: nothing of this {width}x{height} image is left to inspect",
        "规则 regions_of_interest：此 {width}x{height} 图像没有可检测的区域",
    ),
    "no_rule_fired": ("no rule fired", "未触发任何规则"),
}
COUNT = (" ({regions} regions)", "（{regions} 个区域）")
MORE = ("and {n} more", "另有 {n} 项")
SEPARATOR = ("; ", "；")


def reason_text(decided_by: Sequence[Cause], lang: str = "en") -> str:
    """One line such as ``defect probability 0.93 >= 0.41; rule max_count: 3 > 2``.

    Args:
        decided_by: the causes, as described above.
        lang: ``en`` or ``zh``.
    """
    index = LANGUAGES.index(lang)
    texts: list[str] = []
    for cause in decided_by:
        text = _cause_text(cause, index)
        if cause["kind"] == "novelty" and texts:
            texts[-1] += text
        else:
            texts.append(text)
    more = [MORE[index].format(n=len(texts) - SHOWN)] if len(texts) > SHOWN else []
    return SEPARATOR[index].join(texts[:SHOWN] + more)


def record_reasons(record: Mapping[str, Any]) -> list[str]:
    """The reason in a record of ``predictions.json``, in English and in Chinese.

    A record from before version 0.1.0 has the English text alone, which then is both.
    """
    if "decided_by" not in record:
        return [record.get("reason", "")] * len(LANGUAGES)
    return [reason_text(record["decided_by"], lang) for lang in LANGUAGES]


def record_kinds(record: Mapping[str, Any]) -> set[str]:
    """The kinds of what decided a record of ``predictions.json``; of one older than 0.1.0, whether rules did."""
    if "decided_by" in record:
        return {cause["kind"] for cause in record["decided_by"]}
    told = record.get("reason", "")
    if told == "no rule fired":
        return {"no_rule_fired"}
    return {"rule"} if any(part.startswith("rule ") for part in told.split("; ")) else set()


def _cause_text(cause: Cause, index: int) -> str:
    kind, values = cause["kind"], dict(cause)
    if kind in ("probability", "disagreement"):
        reached = cause["probability"] >= cause["threshold"]
        values["comparison"] = _compare(cause["probability"], ">=" if reached else "<", cause["threshold"])
        if kind == "probability" and reached and cause["limit"] == "review":
            kind = "review"
    if kind == "rule":
        values["comparison"] = _exceed(cause["value"], cause["most"])
        values["count"] = COUNT[index].format(**cause) if cause["regions"] > 1 else ""
        values["class_name"] = "" if cause["class"] is None else f" {cause['class']}"
    return TEXTS[kind][index].format(**values, s="" if cause.get("regions") == 1 else "s")


def _compare(probability: float, sign: str, threshold: float) -> str:
    """Such as ``0.93 >= 0.41``, with as many digits as it takes to tell the two apart, and the limit from 0 and 1."""
    digits = next((n for n in range(2, 18) if _tells(probability, threshold, n)), 2)
    return f"{probability:.{digits}f} {sign} {threshold:.{digits}f}"


def _tells(probability: float, limit: float, digits: int) -> bool:
    close = abs(round(limit, digits) - limit) <= 0.01 * abs(min(limit, 1 - limit))
    return close and f"{probability:.{digits}f}" != f"{limit:.{digits}f}"


def _exceed(value: float, most: float) -> str:
    """Such as ``2.6 > 2.0``, with as many digits as it takes to tell the two apart."""
    if float(value).is_integer() and float(most).is_integer():
        return f"{value:.0f} > {most:.0f}"
    least = 1 if most >= 1 else 4
    digits = next((n for n in range(least, 9) if f"{value:.{n}f}" != f"{most:.{n}f}"), 9)
    return f"{value:.{digits}f} > {most:.{digits}f}"
