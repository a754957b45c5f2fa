"""What a calibration tells of its target and promises: data, and the text made from it, in English and Chinese.

A target (``target_values`` in a checkpoint's ``calibration``) is a dict with those of ``max_miss_rate``,
``max_overkill`` (0 to 1), ``cost_miss``, ``cost_overkill`` and ``confidence`` that were given.
Without rates and costs, it is the best F1. With ``views_to_reject`` it is about parts, of which so many images must be
rejected. A promise (an item of ``promises``) is a dict:

============== =========================================================================================================
``rate_name``  ``miss rate`` (defect images accepted) or ``overkill`` (normal images rejected)
``asked``      the largest rate that was asked for, 0 to 1
``rate``       the one that is promised: ``asked`` or, with too few parts, the lowest possible
``confidence`` of the promise, 0 to 1, or None: on average over calibration sets
``kept``       share of calibration sets that keep an average, or None where that is not known
``images``     that the rate rests on, and ``parts``: how many they show
``needed``     parts that ``asked`` takes
``unit``       ``part`` if the rate is that of parts, each judged by all its images; else, or not there: of images
============== =========================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LANGUAGES = ("en", "zh")

RATES = {"miss rate": ("miss rate", "漏检率"), "overkill": ("overkill", "过杀率")}
PART_RATES = {
    "miss rate": ("share of defective parts accepted", "缺陷工件漏检率"),
    "overkill": ("share of good parts rejected", "合格工件过杀率"),
}
FOR_PARTS = (
    "for parts, rejected by {views_to_reject} of their images: ",
    "按工件（{views_to_reject} 张图像判退即判退）：",
)
BEST_F1 = ("best F1", "F1 最高")
COST = (
    "lowest cost, {cost_miss:g} per miss and {cost_overkill:g} per overkill",
    "总代价最低：每次漏检 {cost_miss:g}，每次过杀 {cost_overkill:g}",
)
AT_MOST = ("{name} at most {rate:.2%}", "{name}不超过 {rate:.2%}")
COMMA, SEPARATOR = (", ", "，"), ("; ", "；")

CONFIDENCE = (" with {confidence:.0%} confidence", "（置信度 {confidence:.0%}）")
AVERAGE = (" on average over calibration sets", "（对校准集取平均）")
AVERAGE_KEPT = (
    " on average over calibration sets (kept in {kept:.0%} of them)",
    "（对校准集取平均，其中 {kept:.0%} 的校准集满足）",
)
KINDS = {"miss rate": ("defect", "缺陷"), "overkill": ("normal", "正常")}
PART_KINDS = {"miss rate": ("defective", "缺陷"), "overkill": ("good", "合格")}
PART_EVIDENCE = (", from {parts} {kind} parts in {images} images", "，依据 {parts} 个{kind}工件的 {images} 张图像")
EVIDENCE = (", from {images} {kind} images", "，依据 {images} 张{kind}图像")
OF_PARTS = (" of {parts} parts", "（来自 {parts} 个工件）")
ENOUGH = ("; it takes {needed}", "；至少需要 {needed} {unit}")
TOO_FEW = (
    "{asked:.2%} cannot be promised: it takes {needed} {kind} {noun}, and there are {parts}. The best that can be: ",
    "无法保证 {asked:.2%}：需要 {needed} {unit}{kind}{noun}，而只有 {parts} {unit}。目前最多能保证：",
)
NOUNS = {
    False: (("images", "图像"), ("", "张")),
    True: (("parts", "工件"), ("", "个")),
}  # by whether parts have several


def target_text(target: Mapping[str, Any], lang: str = "en") -> str:
    """Such as ``miss rate at most 1.00%, overkill at most 5.00%``.

    Args:
        target: as described above.
        lang: ``en`` or ``zh``.
    """
    index = LANGUAGES.index(lang)
    prefix = FOR_PARTS[index].format(**target) if "views_to_reject" in target else ""
    if "cost_miss" in target:
        return prefix + COST[index].format(**target)
    rates = {"miss rate": target.get("max_miss_rate"), "overkill": target.get("max_overkill")}
    texts = [_at_most(RATES[name], rate, index) for name, rate in rates.items() if rate is not None]
    return prefix + (COMMA[index].join(texts) or BEST_F1[index])


def promise_text(promise: Mapping[str, Any], lang: str = "en") -> str:
    """Such as ``miss rate at most 5.00% with 95% confidence, from 80 defect images; it takes 59``.

    Args:
        promise: as described above.
        lang: ``en`` or ``zh``.
    """
    index = LANGUAGES.index(lang)
    of_parts = promise.get("unit") == "part"
    several = promise["parts"] < promise["images"] and not of_parts
    noun, unit = (names[index] for names in NOUNS[several or of_parts])
    kind = (PART_KINDS if of_parts else KINDS)[promise["rate_name"]][index]
    values = {**promise, "kind": kind, "noun": noun, "unit": unit}
    certainty = AVERAGE if promise["kept"] is None else AVERAGE_KEPT
    pieces = [
        CONFIDENCE if promise["confidence"] is not None else certainty,
        PART_EVIDENCE if of_parts else EVIDENCE,
        *([OF_PARTS] if several else []),
    ]
    rates = PART_RATES if of_parts else RATES
    text = _at_most(rates[promise["rate_name"]], promise["rate"], index)
    text += "".join(piece[index].format(**values) for piece in pieces)
    if promise["parts"] >= promise["needed"]:
        return text + ENOUGH[index].format(**values)
    return TOO_FEW[index].format(**values) + text


def calibration_texts(facts: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """``target`` and ``promise`` of a checkpoint's ``calibration``, in English and in Chinese; what it does not tell is
    left out.

    Checkpoints of version 0.1.0 have the English texts alone, which then are both.
    """
    facts = facts or {}
    texts = {name: [str(facts[name])] * len(LANGUAGES) for name in ("target", "promise") if facts.get(name)}
    if "target_values" in facts:
        texts["target"] = [target_text(facts["target_values"], lang) for lang in LANGUAGES]
    if facts.get("promises"):
        made = ([promise_text(promise, lang) for promise in facts["promises"]] for lang in LANGUAGES)
        texts["promise"] = [separator.join(some) for separator, some in zip(SEPARATOR, made, strict=True)]
    return texts


def _at_most(names: tuple[str, str], rate: float, index: int) -> str:
    return AT_MOST[index].format(name=names[index], rate=rate)
