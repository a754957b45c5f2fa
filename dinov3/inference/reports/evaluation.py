"""The evaluation report: every metric of a split with its interval, what was missed, and pictures; one HTML file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dinov3.defect_evaluation.bootstrap import Estimate, SplitMetrics
from dinov3.defect_evaluation.figures import chinese_texts, metric_figures, save_figure, thin
from dinov3.defect_evaluation.findings import (
    HIT_RULE,
    OUTCOMES,
    REGION_COLUMNS,
    Findings,
    image_columns,
    write_rows,
)
from dinov3.defect_evaluation.image_results import HIT_SHARE
from dinov3.defect_evaluation.temperature import Rate
from dinov3.defect_evaluation.thresholds import VERDICTS, limit_text
from dinov3.inference.reports.html import both, card, figure_svg, image_tag, page, table
from dinov3.inference.reports.pair_pictures import Pair, draw_pair, draw_sheet

PICTURES = {"missed": 12, "overkill": 12, "worst masks": 12, "best masks": 8}  # at most
MOST_MISSES = 100  # in the page; regions.csv has all

NAMES = {  # metric: English, Chinese
    "image_accuracy": ("accuracy", "准确率"),
    "image_recall": ("recall: defects rejected", "召回率：缺陷被判不合格"),
    "image_precision": ("precision of rejections", "判不合格的精确率"),
    "image_f1": ("F1", "F1"),
    "image_ap": ("average precision", "平均精确率 AP"),
    "image_auroc": ("AUROC", "AUROC"),
    "pixel_iou": ("pixel IoU", "像素 IoU"),
    "pixel_miou": ("mean of background and defect IoU", "背景与缺陷 IoU 均值"),
    "pixel_dice": ("pixel Dice", "像素 Dice"),
    "mean_iou_defect": ("IoU per defect image", "每张缺陷图像的 IoU"),
    "pixel_ap": ("pixel average precision", "像素 AP"),
    "pixel_aupro": ("AUPRO to 0.3", "AUPRO（至 0.3）"),
}
WORDS = {
    "accept": ("accept", "合格"),
    "review": ("review", "复检"),
    "reject": ("reject", "不合格"),
    "missed": ("Missed: defect images accepted", "漏检：缺陷图像被判合格"),
    "overkill": ("Overkill: normal images rejected", "误判：正常图像被判不合格"),
    "worst masks": ("Worst masks of defect images", "缺陷图像中最差的掩码"),
    "best masks": ("Best masks of defect images", "缺陷图像中最好的掩码"),
    "size": ("By size: square root of the area", "按大小（面积的平方根）"),
    "class": ("By class", "按类别"),
    "source": ("By source", "按来源"),
    "all": ("All", "全部"),
}
STYLE = """
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 18px; }
.pairs img { width: 100%; height: auto; display: block; border-radius: 6px; }
.bar { position: relative; display: inline-block; width: 150px; height: 12px; background: #e9ebee; border-radius: 3px;
  overflow: hidden; vertical-align: middle; }
.bar i { position: absolute; left: 0; top: 0; bottom: 0; background: #56b4e9; }
.bar u { position: absolute; top: 5px; height: 2px; background: #20242a; }
.curves svg { max-width: 560px; }
.rates { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 540px), 1fr)); gap: 4px 32px; }
.rates > * { min-width: 0; }
.rates td { white-space: nowrap; }
"""


@dataclass(frozen=True)
class Evaluation:
    """Everything the report is made of.

    Attributes:
        facts: what was measured on what, for the reader: label to text.
        calibration: that of the checkpoint, if any.
    """

    metrics: SplitMetrics
    findings: Findings
    facts: dict[str, Any]
    calibration: dict[str, Any] | None = None


def write_report(folder: Path, evaluation: Evaluation, predict: Callable[[Path], np.ndarray]) -> None:
    """Write ``report.html``, ``metrics.json``, ``per_image.csv``, ``regions.csv``, a PNG of each figure and sheet.

    Args:
        predict: an image file to its predicted mask, (H, W) uint8 of mask classes; for the pictures.
    """
    findings, metrics = evaluation.findings, evaluation.metrics
    classes = findings.rows.classes
    write_rows(folder / "per_image.csv", findings.image_rows(), image_columns(classes))
    write_rows(folder / "regions.csv", findings.region_rows(), REGION_COLUMNS)
    text = json.dumps(report_record(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    figures = metric_figures(metrics, classes, findings.thresholds.classification)
    pictures = choose_pictures(findings, predict, PICTURES)
    body = [
        _summary(evaluation),
        verdict_section(findings),
        curves_section(figures, findings.thresholds.classification),
        _hit_rates(findings),
        _misses(findings),
    ]
    body += [picture_section(kind, pairs) for kind, pairs in pictures.items()]
    html = page(("Evaluation report", "评估报告"), "\n".join([*body, _notes(findings)]), style=STYLE)
    (folder / "report.html").write_text(html, encoding="utf-8")
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    worst = [pair for kind in ("missed", "overkill", "worst masks") for pair in pictures[kind]]
    draw_sheet("Missed, overkill and worst masks: true | predicted", worst, folder / "worst.png")
    draw_sheet("Best masks: true | predicted", pictures["best masks"], folder / "best.png")


def report_record(evaluation: Evaluation) -> dict[str, Any]:
    """The report as JSON: NaN is null, curves have at most 400 points."""
    metrics, findings = evaluation.metrics, evaluation.findings
    limits = findings.thresholds
    curves = {name: thin(getattr(metrics, name)) for name in ("pr", "roc", "pixel_pr", "pro")}
    return {
        **evaluation.facts,
        "thresholds": vars(limits),
        "calibration": evaluation.calibration,
        "metrics": {name: estimate_record(estimate) for name, estimate in metrics.estimates.items()},
        "classes": findings.rows.classes,
        "confusion": metrics.confusion.tolist(),
        "verdicts": findings.verdict_counts(),
        "hit_rule": HIT_RULE,
        "hit_rate": {
            kind: {name: rate.record() for name, rate in rates} for kind, rates in findings.hit_rates().items()
        },
        "curves": {
            name: {axis: [None if math.isnan(v) else round(v, 6) for v in values.tolist()]
                   for axis, values in zip("xy", curve, strict=True)}
            for name, curve in curves.items()
        },
    }  # fmt: skip


def estimate_record(estimate: Estimate) -> dict[str, float | None]:
    """Value, low and high, with None for NaN."""
    return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}


def choose_pictures(
    findings: Findings, predict: Callable[[Path], np.ndarray], most: Mapping[str, int]
) -> dict[str, list[Pair]]:
    """Pictures to look at, by kind (those of :meth:`Findings.ranked`) with at most so many of each."""
    chosen: dict[str, list[Pair]] = {}
    for kind, limit in most.items():
        pairs = (
            draw_pair(findings.rows, n, _note(findings, n), predict) for n in findings.ranked(kind, limit).tolist()
        )
        chosen[kind] = [pair for pair in pairs if pair is not None]
    return chosen


def _note(findings: Findings, n: int) -> tuple[str, str]:
    image, score = findings.images[n], findings.score[n]
    label, taken = findings.class_names[image["label"]], findings.class_names[findings.predicted[n]]
    iou = f", IoU {image['tp'] / (image['tp'] + image['fp'] + image['fn']):.2f}" if image["tp"] + image["fn"] else ""
    return f"{label}, taken for {taken}, p {score:.3f}{iou}", f"{label}，判为 {taken}，p {score:.3f}{iou}"


def picture_section(kind: str, pairs: Sequence[Pair]) -> str:
    """A section of pictures, which may be empty."""
    cards = "".join(
        f"<figure>{image_tag(pair.picture, pair.name)}"
        f"<figcaption>{escape(pair.name)}<br>{both(*pair.note)}</figcaption></figure>"
        for pair in pairs
    )
    none = f'<p class="soft">{both("none", "无")}</p>'
    left = both(
        "left: true mask, right: predicted; p is the defect probability", "左：真实掩码，右：预测；p 为缺陷概率"
    )
    hint = f'<p class="soft">{left}</p>' if pairs else none
    return f'<section><h2>{both(*WORDS[kind])}</h2>{hint}<div class="pairs">{cards}</div></section>'


def metric_cards(estimates: Mapping[str, Estimate]) -> str:
    """A card for each metric, with its interval."""
    cards = []
    for name, words in NAMES.items():
        value, low, high = estimates[name]
        interval = "" if math.isnan(low) else f"{low:.3f} – {high:.3f}"
        shown = both("not measurable", "无法测量") if math.isnan(value) else f"{value:.3f}"
        cards.append(card(both(*words), f'<span title="{name}">{shown}</span>', interval))
    return f'<div class="cards">{"".join(cards)}</div>'


def _summary(evaluation: Evaluation) -> str:
    rows = [[both(*FACTS.get(name, (name, name))), escape(str(value))] for name, value in evaluation.facts.items()]
    limits = evaluation.findings.thresholds
    review = "" if limits.review is None else limit_text(limits.review)
    rows += [
        [both("reject from (defect probability)", "判不合格阈值（缺陷概率）"), limit_text(limits.classification)],
        [both("review from", "复检阈值"), review or both("no review band", "无复检区间")],
        [both("temperature", "温度"), f"{limits.temperature:.3g}"],
        [both("mask threshold", "掩码阈值"), limit_text(limits.mask)],
    ]
    facts = evaluation.calibration or {}
    for name, words in (("target", ("thresholds chosen for", "阈值目标")), ("promise", ("promise", "保证"))):
        if facts.get(name):
            rows.append([both(*words), escape(str(facts[name]))])
    interval = both("Below each value: its 95% interval.", "数值下方为 95% 置信区间。")
    return (
        f"<section><h2>{both('Metrics', '指标')}</h2>{metric_cards(evaluation.metrics.estimates)}"
        f'<p class="soft">{interval}</p></section><section>'
        f"<h2>{both('What was measured', '评估对象')}</h2>{table([], rows)}</section>"
    )


FACTS = {
    "checkpoint": ("checkpoint", "检查点"),
    "data_root": ("dataset", "数据集"),
    "split": ("split", "划分"),
    "images": ("images", "图像数"),
    "defect_images": ("with a defect", "其中有缺陷"),
    "parts": ("parts (groups)", "零件数（分组）"),
    "left_out": ("left out: unreadable, or nothing known", "未计入：无法读取或无标注"),
    "tile_size": ("tile size, pixels", "切片大小（像素）"),
    "date": ("date", "日期"),
}


def verdict_section(findings: Findings) -> str:
    """What became of the images of each class."""
    counts = findings.verdict_counts()
    rows = []
    for name, verdicts in counts.items():
        total = max(sum(verdicts.values()), 1)
        rows.append(
            [escape(name), *(f"{verdicts[v]} <small class=soft>{verdicts[v] / total:.1%}</small>" for v in VERDICTS)]
        )
    header = [both("true class", "真实类别"), *(f'<span class="badge {v}">{both(*WORDS[v])}</span>' for v in VERDICTS)]
    outcome = findings.outcome
    sums = {name: int((outcome == place).sum()) for place, name in enumerate(OUTCOMES)}
    words = (
        ("right", "正确"),
        ("missed: defects accepted", "漏检：缺陷被判合格"),
        ("overkill: normal ones rejected", "误判：正常被判不合格"),
        ("rejected as another type", "不合格，但类型错误"),
        ("for review", "复检"),
    )
    kinds = ("accept", "reject", "reject", "", "review")
    cards = "".join(card(both(*w), str(n), "", k) for w, n, k in zip(words, sums.values(), kinds, strict=True))
    return (
        f"<section><h2>{both('Verdicts', '判定')}</h2>"
        f'<div class="cards">{cards}</div><p></p>{table(header, rows, range(1, 4))}</section>'
    )


def curves_section(figures: Mapping[str, Figure], threshold: float) -> str:
    """All figures, with texts in both languages."""
    body = "".join(figure_svg(figure, chinese=chinese_texts(threshold)) for figure in figures.values())
    return f'<section><h2>{both("Curves", "曲线")}</h2><div class="columns curves">{body}</div></section>'


def _hit_rates(findings: Findings) -> str:
    header = [
        "",
        both("found", "检出"),
        both("of", "总数"),
        both("rate", "检出率"),
        both("95% interval", "95% 区间"),
        "",
    ]
    tables = ""
    for kind, rates in findings.hit_rates().items():
        rows = [
            [escape(name) if kind != "all" else both("all regions", "全部区域"), str(rate.count), str(rate.images),
             f"{rate.count / rate.images:.1%}", f"{rate.low:.1%} – {rate.high:.1%}", _bar(rate)]
            for name, rate in rates
        ]  # fmt: skip
        if rows:
            tables += f"<div><h3>{both(*WORDS[kind])}</h3>{table(header, rows, range(1, 5))}</div>"
    rule = both(
        f"A region (connected area of the true mask) counts as found if the mask marks at least {HIT_SHARE:.0%} of it. "
        "Sizes are in pixels of the original image. Intervals: Wilson, for as many independent regions as the parts "
        "are worth.",
        f"真实掩码中的每个连通区域，若预测掩码至少覆盖其 {HIT_SHARE:.0%}，即视为检出。大小以原图像素计。"
        "区间为 Wilson 区间，并考虑同一零件的图像不独立。",
    )
    none = f'<p class="soft">{both("no defect region in this split", "此划分中没有缺陷区域")}</p>'
    return (
        f"<section><h2>{both('Defect regions found', '缺陷区域检出率')}</h2><p class='soft'>{rule}</p>"
        f'<div class="rates">{tables or none}</div></section>'
    )


def _bar(rate: Rate) -> str:
    low, width = 100 * rate.low, 100 * (rate.high - rate.low)
    share = 100 * rate.count / rate.images
    return (
        f'<span class="bar"><i style="width:{share:.1f}%"></i><u style="left:{low:.1f}%;width:{width:.1f}%"></u></span>'
    )


def _misses(findings: Findings) -> str:
    missed = np.flatnonzero(~findings.found)
    missed = missed[np.argsort(-findings.side[missed], kind="stable")]
    rows = [
        [f'<span class="name">{escape(row["image"])}</span>', escape(row["label"]), escape(row["source"]),
         f"{row['x']}, {row['y']}", f"{row['width']} × {row['height']}", str(row["area"]), row["coverage"],
         row["mask_peak"], f'<span class="badge {row["image_verdict"]}">{both(*WORDS[row["image_verdict"]])}</span>']
        for row in findings.region_rows(missed[:MOST_MISSES])
    ]  # fmt: skip
    words = (
        ("image", "图像"), ("class", "类别"), ("source", "来源"), ("x, y", "x, y"), ("size", "尺寸"), ("area", "面积"),
        ("share marked", "覆盖率"), ("highest mask probability", "最高掩码概率"), ("image's verdict", "图像判定"),
    )  # fmt: skip
    head = both(f"Missed regions: {len(missed)}", f"漏检区域：{len(missed)}")
    more = both("The largest first; regions.csv has all.", "按面积从大到小；全部见 regions.csv。")
    body = table([both(*w) for w in words], rows, range(3, 8)) if rows else f'<p class="soft">{both("none", "无")}</p>'
    return f"<section><h2>{head}</h2><p class='soft'>{more}</p>{body}</section>"


def _notes(findings: Findings) -> str:
    bins = findings.results.bins
    return "<section><h2>{}</h2><p>{}</p><p>{}</p></section>".format(
        both("How this was measured", "计算方法"),
        both(
            "Intervals are 95% percentile intervals of a bootstrap over parts: all images of a part are drawn or left "
            "out together. Where every part agrees, the exact binomial limit stands in for it.",
            "区间为按零件重采样（bootstrap）的 95% 百分位区间：同一零件的图像一起被抽取。"
            "全部一致时改用精确二项分布界限。",
        ),
        both(
            f"Pixel average precision and AUPRO come from histograms of {bins} bins, even in log-odds; AUPRO follows "
            "Bergmann et al. 2021, integrated to a false-positive rate of 0.3.",
            f"像素 AP 与 AUPRO 由 {bins} 级（对数几率等距）直方图计算；AUPRO 按 Bergmann 等 2021，积分至误报率 0.3。",
        ),
    )
