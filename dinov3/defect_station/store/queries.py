"""Which rows of the results database are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from dinov3.defect_station.store.inspected import time_text
from dinov3.defect_station.store.schema import DOUBTFUL, decisions, inspections

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, TextClause

Order = Literal["oldest", "newest", "doubt"]
UNDO = "undo"


def select_rows(
    filters: Mapping[str, Any], order: Order, limit: int | None, embeddings: bool, last: Mapping[str, Any] | None = None
) -> Select:
    """Images with the latest decision on each, if any.

    Args:
        filters: as :meth:`Store.rows` has them.
        last: the row before the first one wanted.
    """
    import sqlalchemy as sa

    table, decided = inspections(), decisions()
    newer = decided.alias()
    latest = (
        sa.select(sa.func.max(newer.c.number)).where(newer.c.inspection_id == table.c.id).correlate(table)
    ).scalar_subquery()
    columns = [c for c in table.c if embeddings or c.name != "embedding"]
    joined = table.outerjoin(decided, sa.and_(decided.c.inspection_id == table.c.id, decided.c.number == latest))
    query = sa.select(
        *columns,
        sa.func.coalesce(decided.c.number, 0).label("decisions"),
        decided.c.decision,
        decided.c.person,
        decided.c.class_name,
        decided.c.comment,
        decided.c.time.label("decision_time"),
    ).select_from(joined)
    query = query.where(*conditions(filters))
    if filters.get("undecided") is not None:
        settled = is_settled()
        query = query.where(~settled if filters["undecided"] else settled)
    if order == "doubt":
        query = query.where(table.c.doubt.is_not(None)).order_by(table.c.doubt, table.c.id)
        if last is not None:
            query = query.where(sa.tuple_(table.c.doubt, table.c.id) > sa.tuple_(last["doubt"], last["id"]))
    else:
        newest = order == "newest"
        query = query.order_by(table.c.id.desc() if newest else table.c.id)
        if last is not None:
            query = query.where(table.c.id < last["id"] if newest else table.c.id > last["id"])
    return query if limit is None else query.limit(limit)


def conditions(filters: Mapping[str, Any]) -> list[ColumnElement[bool] | TextClause]:
    """Those on the image itself. ValueError for a filter that does not exist."""
    table = inspections()
    found: list[ColumnElement[bool] | TextClause] = []
    for name, value in filters.items():
        if value is None or name == "undecided":
            continue
        if name in ("since", "until"):
            text = as_text(value)
            found.append(table.c.time >= text if name == "since" else table.c.time < text)
        elif name == "after":
            found.append(table.c.id > value)
        elif name == "doubtful":
            found.append(is_doubtful(value))
        elif name in ("verdict", "model", "part", "name", "content_hash", "id", "disagreement"):
            column = table.c[name]
            found.append(column.in_(value) if isinstance(value, (list, tuple, set)) else column == value)
        else:
            raise ValueError(f"{name}: no such filter")
    return found


def is_settled() -> ColumnElement[bool]:
    """That a person decided and did not take it back. Asked of each image by itself, in the order that is asked for, so
    that the first few do not wait for a look at all."""
    import sqlalchemy as sa

    table, decided = inspections(), decisions()
    newer = decided.alias()
    later = sa.exists().where(newer.c.inspection_id == decided.c.inspection_id, newer.c.number > decided.c.number)
    of_image = decided.c.inspection_id == table.c.id
    return sa.exists().where(of_image, decided.c.decision != UNDO, ~later).correlate(table)


def is_doubtful(value: bool = True) -> TextClause:
    """That a person should look, or not: for review, or mask and classifier disagree. In the words of the index
    ``inspections_doubtful``, which it is found by."""
    import sqlalchemy as sa

    return sa.text(f"({DOUBTFUL})" if value else f"NOT ({DOUBTFUL})")


def as_text(time: datetime | str) -> str:
    """A time as the database has it."""
    return time_text(time) if isinstance(time, datetime) else time


def select_scores(after: int, limit: int) -> Select:
    """Rows of :meth:`Store.scores` with a larger ``id``."""
    import sqlalchemy as sa

    table = inspections()
    columns = [table.c[name] for name in "id time name part model defect_probability novelty".split()]
    return sa.select(*columns).where(table.c.id > after).order_by(table.c.id).limit(limit)


def starts(last: int | None, since: datetime | str | None) -> Iterator[Select]:
    """Of the ids after which rows are those that :meth:`Store.scores` wants."""
    import sqlalchemy as sa

    table = inspections()
    if last is not None:
        yield sa.select(table.c.id).order_by(table.c.id.desc()).offset(last).limit(1)
    if since is not None:  # without a row from then on, after all there are
        first = sa.select(sa.func.min(table.c.id) - 1).where(table.c.time >= as_text(since)).scalar_subquery()
        yield sa.select(sa.func.coalesce(first, sa.select(sa.func.max(table.c.id)).scalar_subquery()))
