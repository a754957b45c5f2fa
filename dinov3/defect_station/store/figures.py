"""Figures over the results database, added up by the database itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from dinov3.defect_station.store.inspected import time_text
from dinov3.defect_station.store.queries import UNDO, conditions, is_doubtful, is_settled
from dinov3.defect_station.store.schema import decisions, inspections

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from dinov3.defect_station.store.store import Store

BINS = 20  # of probabilities


def day_bounds(day: date) -> tuple[str, str]:
    """When a day of this machine's clock begins and ends, as the database has times; it may have 23 or 25 hours."""
    first, last = (datetime.combine(day + timedelta(n), time()).astimezone() for n in (0, 1))
    return time_text(first), time_text(last)


def inspected_by_day(store: Store, days: Sequence[date]) -> list[dict[str, Any]]:
    """How many images there are of each ``day``, ``model``, ``predicted_class``, ``verdict`` and ``bin`` of the defect
    probability (0 to BINS - 1; None: it has none), as ``images``."""
    import sqlalchemy as sa

    table = inspections()
    scaled: ColumnElement[Any] = table.c.defect_probability * BINS
    if store.engine.dialect.name == "postgresql":  # whose CAST rounds
        scaled = sa.func.floor(scaled)
    # Grouping sorts; numbers that differ often come first, as they are compared faster than long texts.
    key = (sa.cast(scaled, sa.Integer).label("bin"), table.c.verdict, table.c.predicted_class, table.c.model)
    found = []
    for day in days:
        since, until = day_bounds(day)
        asked = conditions({"since": since, "until": until})
        query = sa.select(*key, sa.func.count().label("images")).where(*asked).group_by(*key)
        for row in store.read(query):
            row["bin"] = None if row["bin"] is None else min(row["bin"], BINS - 1)
            found.append({"day": day, **row})
    return found


def decided_by_day(store: Store, days: Sequence[date]) -> list[dict[str, Any]]:
    """How many images people decided on each ``day``, by ``model``, ``predicted_class`` and ``verdict`` of the model,
    and ``decision``, ``class_name`` and ``person`` of the latest decision, as ``images``; none that was undone."""
    import sqlalchemy as sa

    table, decided = inspections(), decisions()
    newer = decided.alias()
    latest = ~sa.exists().where(newer.c.inspection_id == decided.c.inspection_id, newer.c.number > decided.c.number)
    key = (table.c.model, table.c.predicted_class, table.c.verdict)
    key += (decided.c.decision, decided.c.class_name, decided.c.person)
    joined = decided.join(table, table.c.id == decided.c.inspection_id)
    found = []
    for day in days:
        since, until = day_bounds(day)
        query = sa.select(*key, sa.func.count().label("images")).select_from(joined).group_by(*key)
        query = query.where(decided.c.time >= since, decided.c.time < until, latest, decided.c.decision != UNDO)
        found += [{"day": day, **row} for row in store.read(query)]
    return found


def models_seen(store: Store) -> list[dict[str, Any]]:
    """The models that images are of, the latest first: ``model``, ``images``, how many of each verdict, and ``first``
    and ``last``, the rows of their first and last image."""
    import sqlalchemy as sa

    table = inspections()
    ends = [sa.func.min(table.c.id).label("first"), sa.func.max(table.c.id).label("last")]
    query = sa.select(table.c.model, table.c.verdict, sa.func.count().label("images"), *ends)
    found: dict[str, dict[str, Any]] = {}
    for row in store.read(query.group_by(table.c.model, table.c.verdict)):
        seen = found.setdefault(row["model"], {"model": row["model"], "images": 0, "first": [], "last": []})
        seen["images"] += row["images"]
        seen[row["verdict"]] = row["images"]
        seen["first"].append(row["first"])
        seen["last"].append(row["last"])
    for seen in found.values():
        seen["first"], seen["last"] = min(seen["first"]), max(seen["last"])
    asked = [number for seen in found.values() for number in (seen["first"], seen["last"])]
    rows = {row["id"]: row for row in store.rows(id=asked)}
    kept = [seen for seen in found.values() if {seen["first"], seen["last"]} <= set(rows)]  # some may be pruned now
    for seen in kept:
        seen["first"], seen["last"] = rows[seen["first"]], rows[seen["last"]]
    return sorted(kept, key=lambda seen: seen["last"]["id"], reverse=True)


def count_open(store: Store) -> int:
    """How many doubtful images nobody decided yet."""
    import sqlalchemy as sa

    table = inspections()
    asked = [is_doubtful(), table.c.doubt.is_not(None), ~is_settled()]
    return store.read(sa.select(sa.func.count().label("images")).select_from(table).where(*asked))[0]["images"]
