"""Pages and pieces of pages, from the templates."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from dinov3 import defect_station
from dinov3.defect_pages.html import render
from dinov3.defect_serving.gate import has_key, key_name
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.texts import DECISIONS, TEXTS, VERDICTS
from dinov3.defect_station.store.inspected import ERROR
from dinov3.inference.reasons import reason_text

TEMPLATES = Path(defect_station.__file__).parent / "templates"
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)  # those that run; data has attributes


def page(request: Request, service: Service, name: str, **values: Any) -> HTMLResponse:
    """The page of the template ``name``; before that, the one that asks for a key, if one is needed and missing."""
    allowed, status = has_key(request, service.keys), 200
    if not allowed:
        name, status = "key", 401
    shared = {"texts": TEXTS, "verdicts": VERDICTS, "person": key_name(request), "screen": name}
    shared["keys"] = service.keys is not None
    if allowed:
        values["texts"] = TEXTS | values.get("texts", {})
        shared |= values
    html = render(TEMPLATES / f"{name}.html", **shared)
    return HTMLResponse(html, status, headers={"Content-Security-Policy": policy(html)})


def policy(html: str) -> str:
    """Only the page's own scripts run, whatever text of people and files it shows, and no other page frames it."""
    digests = [hashlib.sha256(script.encode()).digest() for script in SCRIPT.findall(html)]
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return f"script-src {scripts}; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


def piece(name: str, **values: Any) -> str:
    """HTML for a page that is shown already."""
    return render(TEMPLATES / f"{name}.html", verdicts=VERDICTS, decisions_named=DECISIONS, **values)


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the database with what pages say of it: ``reasons`` in both languages, ``clock`` by this machine's time,
    ``has_mask``."""
    failed = row["verdict"] == ERROR
    reasons = [row["error"]] * 2 if failed else [reason_text(row["decided_by"], lang) for lang in ("en", "zh")]
    return dict(row) | {"reasons": reasons, "clock": clock(row["time"]), "has_mask": bool(row["regions"])}


def clock(text: str, seconds: bool = True) -> str:
    """A time of the database by this machine's clock, with the day if that is not today."""
    local = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    form = "%H:%M:%S" if seconds else "%H:%M"
    return local.strftime(form if local.date() == datetime.now().date() else f"%Y-%m-%d {form}")
