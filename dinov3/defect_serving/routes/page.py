"""``/``: a page for people, to drop images on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from dinov3 import defect_pages
from dinov3.data.defect_drawing import CLASS_COLORS, hex_color
from dinov3.defect_pages.html import render
from dinov3.defect_serving.service import Service
from dinov3.inference.reasons import VERDICT_NAMES

TEMPLATE = Path(defect_pages.__file__).parent / "templates" / "serving.html"

# English, Chinese
TEXTS = VERDICT_NAMES | {
    "key": ("Key", "密钥"),
    "model": (
        "Model: {name} ({fingerprint}), {engine}, {precision}; {classes}; {size} pixels",
        "模型：{name}（{fingerprint}），{engine}，{precision}；{classes}；{size} 像素",
    ),
    "review_limit": ("Review from probability", "复检阈值（概率）"),
    "reject_limit": ("Reject from probability", "不合格阈值（概率）"),
    "waiting": ("{n} to go", "还有 {n} 张"),
    "done": ("all inspected", "全部检测完毕"),
    "stopped": ("waiting for a key", "等待输入密钥"),
    "no_verdict": ("no verdict", "无判定"),
    "no_answer": ("the server does not answer", "服务器没有响应"),
    "no_picture": ("the browser cannot show this kind of file", "浏览器无法显示此类文件"),
    "would_be": ("with these limits: {n}", "按当前阈值：{n}"),
    "regions": ("{n} region(s), {share} of the image", "{n} 个区域，占图像的 {share}"),
    "no_region": ("no defect region", "无缺陷区域"),
    "class": ("Class", "类别"),
    "position": ("x, y", "x, y"),
    "area": ("Area", "面积"),
    "length": ("Length", "长度"),
    "width": ("Width", "宽度"),
    "score": ("Mean probability", "平均概率"),
    "wrong_key": ("The server does not know this key.", "服务器不认识此密钥。"),
}


def page_values() -> dict[str, Any]:
    """What the template needs."""
    return {"texts": TEXTS, "verdicts": VERDICT_NAMES, "colors": [hex_color(color) for color in CLASS_COLORS]}


def router(service: Service) -> APIRouter:
    """The route of the page. It needs no key itself; what it sends does."""
    routes = APIRouter(include_in_schema=False)
    page = render(TEMPLATE, **page_values())

    @routes.get("/")
    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": "frame-ancestors 'none'"})

    return routes
