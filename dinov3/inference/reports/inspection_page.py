"""The inspection report's text: what stands on the page, in English and Chinese, and how it looks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dinov3.data.defect_drawing import class_color, hex_color
from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds, limit_text
from dinov3.inference.reports.html import both, card, data_script, page, table
from dinov3.inference.visualize import NORMAL_COLOR

DATA = "<!--images-->"  # where ReportWriter puts what it streams; escaped text cannot hold it
STATIC = Path(__file__).with_name("static")

TEXTS = {
    "accept": ("accept", "合格"),
    "review": ("review", "复检"),
    "reject": ("reject", "不合格"),
    "bin": ("{from} to {to}: {n} images", "{from} 至 {to}：{n} 张"),
    "alt": ("{name}: {verdict}, {class}, defect probability {p}", "{name}：{verdict}，{class}，缺陷概率 {p}"),
    "area": ("{share} in {n} region(s)", "{share}，{n} 个区域"),
    "no_region": ("no defect region", "无缺陷区域"),
    "no_picture": ("no picture", "无图像"),
    "found": ("{n} of {of} images", "{n} / {of} 张图像"),
    "nothing": ("No image fits these filters.", "没有符合筛选条件的图像。"),
    "printed": ("The first {n} of {of} images are printed.", "共 {of} 张图像，打印前 {n} 张。"),
    "why": ("Reason", "判定依据"),
    "with_new_limits": ("With the moved thresholds", "按调整后的阈值"),
    "class": ("Class", "类别"),
    "defect_probability": ("Defect probability", "缺陷概率"),
    "marked": ("Marked as defect", "标出的缺陷"),
    "disagreement": ("Mask and classifier disagree", "掩码与分类结果不一致"),
    "milliseconds": ("Time", "耗时"),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "more_regions": ("and {n} smaller", "另有 {n} 个较小区域"),
    "search": ("Search name, class, reason", "搜索文件名、类别、依据"),
    "all_verdicts": ("All verdicts", "全部判定"),
    "changed": ("Would change", "判定会改变"),
    "all_classes": ("All classes", "全部类别"),
    "order_suspicious": ("Most suspicious first", "最可疑的在前"),
    "order_probability": ("Probability, high to low", "概率从高到低"),
    "order_probability_up": ("Probability, low to high", "概率从低到高"),
    "order_nearest": ("Nearest a threshold", "最接近阈值"),
    "order_name": ("Name", "文件名"),
    "order_area": ("Defect area, large to small", "缺陷面积从大到小"),
    "order_input": ("Order of inspection", "检测顺序"),
    "filters": ("Filters", "筛选"),
    "verdict": ("Verdict", "判定"),
    "order": ("Order", "排序"),
    "previous": ("Previous image (left arrow key)", "上一张（左方向键）"),
    "next": ("Next image (right arrow key)", "下一张（右方向键）"),
    "close": ("Close (Esc)", "关闭（Esc）"),
    "review_limit": ("Review from probability", "复检阈值（概率）"),
    "reject_limit": ("Reject from probability", "不合格阈值（概率）"),
    "histogram": ("Histogram of the defect probabilities of all images", "全部图像缺陷概率的直方图"),
}
ORDERS = [key.removeprefix("order_") for key in TEXTS if key.startswith("order_")]


def report_page(
    *,
    title: str,
    checkpoint: str,
    source: str,
    calibration: Mapping[str, Any] | None,
    classes: Sequence[str],
    thresholds: Thresholds,
    counts: Mapping[str, int],
    disagreements: int,
    bound: int,
    errors: Sequence[tuple[str, str]],
    images_shown: int,
    has_panels: bool,
    block: int,
) -> str:
    """The page without its images: ``DATA`` stands once where their elements belong.

    The arguments are those of ``ReportWriter`` and what ``Summary`` says; ``has_panels``: the four-panel pictures are
    in ``visualizations/`` beside the page; ``block``: pictures per element.
    """
    good = sum(counts.get(v, 0) for v in VERDICTS)
    review = thresholds.classification if thresholds.review is None else thresholds.review
    facts = {
        "classes": list(classes),
        "colors": [hex_color(NORMAL_COLOR if i == 0 else class_color(i)) for i in range(len(classes))],
        "review": review,
        "reject": thresholds.classification,
        "counts": {v: counts.get(v, 0) for v in VERDICTS},
        "panels": "visualizations" if has_panels else "",
        "block": block,
    }
    body = "\n".join(
        [
            _overview(checkpoint, source, counts, disagreements, bool(errors)),
            _thresholds(thresholds, calibration, bound),
            _images(classes, good - images_shown),
            _errors(errors, counts.get("error", 0)),
            FULL_VIEW,
            data_script("report", facts),
            DATA,
        ]
    )
    heading = (title, title) if title else ("Inspection report", "检测报告")
    script = (STATIC / "report.js").read_text(encoding="utf-8")
    return page(heading, body, lang_texts=TEXTS, script=script, style=(STATIC / "report.css").read_text("utf-8"))


def _overview(checkpoint: str, source: str, counts: Mapping[str, int], disagreements: int, any_errors: bool) -> str:
    good = sum(counts.get(v, 0) for v in VERDICTS)
    lines = [
        (both("Images", "图像"), escape(source)),
        (both("Model", "模型"), escape(checkpoint)),
        (both("Written", "生成时间"), time.strftime("%Y-%m-%d %H:%M")),
    ]
    known = " · ".join(f"{label}: <b>{value}</b>" for label, value in lines if value)

    def share(n: int) -> str:
        return f"{n / good:.1%}" if good else ""

    cards = [_filter_card("", both("All inspected", "全部已检"), good, "")]
    names = {"accept": ("✓ Accept", "✓ 合格"), "review": ("? Review", "? 复检"), "reject": ("✕ Reject", "✕ 不合格")}
    for verdict, name in names.items():
        cards.append(_filter_card(verdict, both(*name), counts.get(verdict, 0), share(counts.get(verdict, 0))))
    label = both("⚠ Mask and classifier disagree", "⚠ 掩码与分类不一致")
    cards.append(_filter_card("disagreement", label, disagreements, share(disagreements)))
    failed = card(both("! Not readable", "! 无法读取"), f"{counts.get('error', 0):,}")
    cards.append(f'<a class="plain" href="#errors">{failed}</a>' if any_errors else failed)
    return f'<section><p class="facts">{known}</p><div class="cards">{"".join(cards)}</div></section>'


def _filter_card(kind: str, label: str, value: int, note: str) -> str:
    """A number that is a button: it shows these images only."""
    return (
        f'<button type="button" class="card {kind}" data-filter="{kind}" aria-pressed="false"><small>{label}</small>'
        f"<b>{value:,}</b><small>{note}</small></button>"
    )


def _thresholds(thresholds: Thresholds, calibration: Mapping[str, Any] | None, bound: int) -> str:
    hint = both(
        "Move the limits to see what other thresholds would have done with these images. The results stay as they "
        "are; to use other thresholds, inspect again with --threshold.",
        "拖动滑块，可查看其他阈值下的判定数量。结果文件不会改变；要采用新的阈值，请用 --threshold 重新检测。",
    )
    notes = []
    if calibration:
        notes.append(
            both(
                "What calibration promises holds for the inspection's own thresholds only.",
                "校准所作的保证仅对检测时的阈值有效。",
            )
        )
    if bound:
        notes.append(
            both(
                f"{bound:,} verdict(s) came from rules or from a disagreement of mask and classifier, not from the "
                "probability alone. No threshold makes these milder, or changes those that rules decide alone.",
                f"有 {bound:,} 个判定来自规则或掩码与分类的不一致，而不仅仅是概率。调整阈值不会使它们变宽松；"
                "完全由规则决定的判定不随阈值改变。",
            )
        )
    zones = "".join(f'<div class="zone {v}" id="zone-{v}"><span data-text="{v}"></span></div>' for v in VERDICTS)
    axis = "".join(f"<span>{x:g}</span>" for x in (0, 0.25, 0.5, 0.75, 1))
    sliders = "".join(
        f'<span class="limit-name"><i class="{v}"></i><span data-text="{v}_limit"></span></span>'
        f'<input type="range" id="{v}-range" class="{v}" min="0" max="1" step="0.001" data-text-aria-label="{v}_limit">'
        f'<input type="number" id="{v}-value" min="0" max="1" step="any" data-text-aria-label="{v}_limit">'
        for v in ("review", "reject")
    )
    rows = "".join(
        f'<tr><th scope="row"><span class="badge {v}" data-text="{v}"></span></th><td class="num" id="then-{v}"></td>'
        f'<td class="num now" id="now-{v}"></td><td class="num" id="change-{v}"></td></tr>'
        for v in VERDICTS
    )
    band = both("none", "无") if thresholds.review is None else limit_text(thresholds.review)
    used = both("Reject from", "不合格下限") + f" <b>{limit_text(thresholds.classification)}</b> · "
    used += both("review from", "复检下限") + f" <b>{band}</b> · "
    used += both("mask from", "掩码阈值") + f" <b>{limit_text(thresholds.mask)}</b>"
    if thresholds.temperature != 1:
        used += " · " + both("temperature", "温度") + f" <b>{thresholds.temperature:.4g}</b>"
    return f"""<section aria-labelledby="thresholds-title">
<h2 id="thresholds-title">{both("Thresholds", "阈值")}</h2>
<p>{used}</p>
{_calibration(calibration)}
<div class="tuning">
<div class="chart">
<div class="scale" id="ticks" aria-hidden="true"></div>
<div class="hist" role="img" data-text-aria-label="histogram">{zones}<div id="bars"></div></div>
<div class="axis" aria-hidden="true">{axis}</div>
<p class="soft axis-name">{
        both("Defect probability of all images; heights are logarithmic", "全部图像的缺陷概率；纵轴为对数刻度")
    }</p>
<div class="sliders">{sliders}</div>
</div>
<div>
<table class="tally"><thead><tr><th></th><th class="num">{both("As inspected", "检测结果")}</th>
<th class="num">{both("With these limits", "按当前阈值")}</th>
<th class="num">{both("Change", "变化")}</th></tr></thead>
<tbody aria-live="polite">{rows}</tbody></table>
<p><button type="button" id="reset">{both("Back to the thresholds of the inspection", "恢复检测时的阈值")}</button></p>
<p class="soft screen">{hint}</p>
{"".join(f'<p class="soft">{note}</p>' for note in notes)}
</div>
</div>
</section>"""


def _calibration(facts: Mapping[str, Any] | None) -> str:
    """What calibration says of the limits; its own texts are in English."""
    if not facts:
        none = both(
            "No promise comes with this inspection: the model was not calibrated, or thresholds or tiles were set by "
            "hand, or rules decided alone.",
            "本次检测不附带任何保证：模型未经校准，或阈值、切片由人工设定，或完全由规则判定。",
        )
        return f'<p class="soft">{none}</p>'
    rows = []
    for key, label in (("target", both("Target", "目标")), ("promise", both("Promise", "保证"))):
        if facts.get(key):
            rows.append(f"<dt>{label}</dt><dd>{escape(str(facts[key]))}</dd>")
    if "images" in facts and "defects" in facts:
        images, defects = facts["images"], facts["defects"]
        text = both(
            f"{images:,} validation images, {defects:,} with a defect",
            f"{images:,} 张验证图像，其中 {defects:,} 张有缺陷",
        )
        rows.append(f"<dt>{both('Found on', '校准数据')}</dt><dd>{text}</dd>")
    if "ece_before" in facts and "ece_after" in facts:
        text = f"{facts['ece_before']:.3f} → {facts['ece_after']:.3f}"
        rows.append(f"<dt>{both('Expected calibration error', '期望校准误差')}</dt><dd>{text}</dd>")
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _images(classes: Sequence[str], hidden: int) -> str:
    def options(pairs: Sequence[tuple[str, str]]) -> str:
        return "".join(f'<option value="{value}" data-text="{key}"></option>' for value, key in pairs)

    verdicts = options([("", "all_verdicts"), *((v, v) for v in VERDICTS), ("changed", "changed")])
    kinds = options([("", "all_classes")]) + "".join(
        f'<option value="{i}">{escape(name)}</option>' for i, name in enumerate(classes)
    )
    orders = options([(order, f"order_{order}") for order in ORDERS])
    note = ""
    if hidden:
        note = both(
            f"{hidden:,} more images count in all numbers above but have no picture here: those least suspect. They "
            "are in predictions.csv.",
            f"另有 {hidden:,} 张最不可疑的图像已计入上面的全部数字，但此处不显示图片，详见 predictions.csv。",
        )
        note = f'<p class="hidden-images">{note}</p>'
    hint = both(
        "Point at a picture to see its mask, click it for the full view.",
        "将鼠标移到图片上可查看掩码，点击可放大。",
    )
    return f"""<section id="images" aria-labelledby="images-title">
<h2 id="images-title">{both("Images", "图像")}</h2>
{note}
<form id="controls" role="search" data-text-aria-label="filters">
<input type="search" name="text" data-text-placeholder="search" data-text-aria-label="search">
<select name="verdict" data-text-aria-label="verdict">{verdicts}</select>
<select name="kind" data-text-aria-label="class">{kinds}</select>
<select name="order" data-text-aria-label="order">{orders}</select>
<label><input type="checkbox" name="disagreement"> {both("Disagreements only", "仅看不一致")}</label>
<label><input type="checkbox" name="masks"> {both("Always show masks", "始终显示掩码")}</label>
<button type="reset">{both("Clear", "清除")}</button>
</form>
<p class="soft"><span id="found" role="status"></span> <span class="screen">· {hint}</span></p>
<div id="grid" role="list" aria-labelledby="images-title"></div>
<p class="soft" id="printed"></p>
</section>"""


def _errors(errors: Sequence[tuple[str, str]], total: int) -> str:
    if not errors:
        return ""
    rows = [
        (f'<span class="file">{escape(name)}</span>', escape(reason.partition(f"{name}: ")[2] or reason))
        for name, reason in errors
    ]
    more = total - len(errors)
    note = both(f"{more:,} more are in errors.csv.", f"另有 {more:,} 个，见 errors.csv。") if more else ""
    return (
        f'<section id="errors"><h2>{both("Not readable", "无法读取的文件")}</h2>'
        f'{table([both("File", "文件"), both("Reason", "原因")], rows)}<p class="soft">{note}</p></section>'
    )


FULL_VIEW = f"""<dialog id="full" aria-labelledby="full-name"><div class="full-body">
<div class="full-head"><span id="full-badge"></span><h2 id="full-name"></h2><span class="soft" id="full-place"></span>
<button type="button" id="previous" data-text-aria-label="previous" data-text-title="previous">←</button>
<button type="button" id="next" data-text-aria-label="next" data-text-title="next">→</button>
<button type="button" id="close" data-text-aria-label="close" data-text-title="close">✕</button></div>
<div id="full-picture"></div>
<div class="columns">
<div><h3>{both("Probabilities", "各类别概率")}</h3><div id="full-bars"></div></div>
<div><h3>{both("Verdict", "判定")}</h3><dl class="facts" id="full-facts"></dl></div>
</div>
<div id="full-regions"><h3>{both("Defect regions", "缺陷区域")}</h3>
<div class="scroll"><table><thead><tr><th>{both("Class", "类别")}</th>
<th class="num">{both("Position (x, y)", "位置 (x, y)")}</th><th class="num">{both("Area", "面积")}</th>
<th class="num">{both("Length", "长度")}</th><th class="num">{both("Width", "宽度")}</th>
<th class="num">{both("Mean probability", "平均概率")}</th></tr></thead><tbody id="region-rows"></tbody></table></div>
<p class="soft" id="more-regions"></p></div>
</div></dialog>"""
