"""The door to the results database; see the package's text for how it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dinov3.defect_errors import DefectError
from dinov3.defect_station.store.database import SECONDS_LOCKED, DecidedError, open_engine, told, use_wal
from dinov3.defect_station.store.inspected import Inspected, now, time_text
from dinov3.defect_station.store.queries import UNDO, Order, as_text, conditions, select_rows, select_scores, starts
from dinov3.defect_station.store.schema import decisions, inspections, upgrade

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select

Decision = Literal["accept", "reject", "undo"]
DECISIONS = ("accept", "reject", UNDO)
PAGE, SCORES = 500, 5000  # rows that are read at a time
PRUNED = 500  # rows that are removed at a time


class RemovedFiles(NamedTuple):
    """What a row that is gone named."""

    content_hash: str
    image_path: str
    mask_path: str


class Store:
    """One results database. Use as a context manager, or call :meth:`close`.

    Raises:
        DefectError: of every method: the database cannot be used; it and the reason are named in one sentence.
    """

    def __init__(self, engine: Engine, place: str, seconds_locked: float = SECONDS_LOCKED):
        self.engine, self.place, self.seconds_locked = engine, place, seconds_locked

    @classmethod
    def open(cls, url: str, *, must_exist: bool = False, seconds_locked: float = SECONDS_LOCKED) -> Store:
        """Open a database, made if needed and brought up to date if older.

        Args:
            url: an SQLite file, or ``postgresql://user:password@host/database``.
            must_exist: an SQLite file that is not there is an error.
            seconds_locked: how long to wait while another program writes.
        """
        engine, place = open_engine(str(url), must_exist, seconds_locked)
        store = cls(engine, place, seconds_locked)
        try:
            with store._writing() as connection:
                upgrade(connection, place)
            if engine.dialect.name == "sqlite":
                with told(place, seconds_locked):
                    use_wal(engine)
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def add(self, images: Iterable[Inspected]) -> int:
        """Store images, all or none; those that are stored already are skipped. Returns how many were new.

        When this returns, they are on the disk.
        """
        rows = [image.to_row() for image in images]
        if not rows:
            return 0
        statement = self._insert_ignoring()
        with self._writing() as connection:
            return len(connection.execute(statement, rows).all())

    def _insert_ignoring(self) -> Any:
        if self.engine.dialect.name == "sqlite":
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert
        return insert(inspections()).on_conflict_do_nothing(index_elements=["key"]).returning(inspections().c.id)

    def decide(
        self,
        inspection_id: int,
        person: str,
        decision: Decision,
        *,
        class_name: str | None = None,
        comment: str = "",
        after: int | None = None,
    ) -> int:
        """Store what a person decided on an image. Returns its number: 1 is the first decision on this image.

        Args:
            decision: ``accept``, ``reject``, or ``undo``, after which the image is undecided again.
            class_name: which defect it is, if they said so.
            after: number of the latest decision that the person knew of (``decisions`` of a row); None: any.

        Raises:
            DecidedError: there was a later one, so somebody else was faster.
            DefectError: no such image.
            ValueError: no such decision.
        """
        import sqlalchemy as sa

        if decision not in DECISIONS:
            raise ValueError(f"{decision!r}: expected one of {', '.join(DECISIONS)}")
        table = decisions()
        of_image = table.c.inspection_id == inspection_id
        with self._writing() as connection:
            # Others wait for this row until this transaction ends.
            found = sa.select(inspections().c.id).where(inspections().c.id == inspection_id).with_for_update()
            if connection.execute(found).first() is None:
                raise DefectError(f"--store {self.place}: no image {inspection_id}; it may have been removed")
            latest = connection.execute(
                sa.select(table).where(of_image).order_by(table.c.number.desc()).limit(1)
            ).first()
            number = 0 if latest is None else latest.number
            if after is not None and number != after:
                raise DecidedError(f"image {inspection_id}: {latest.person} decided meanwhile: {latest.decision}")
            row = {"inspection_id": inspection_id, "number": number + 1, "time": now(), "person": person}
            row |= {"decision": decision, "class_name": class_name, "comment": comment}
            connection.execute(sa.insert(table), row)
        return number + 1

    def rows(
        self, *, order: Order = "oldest", limit: int | None = None, embeddings: bool = False, **filters: Any
    ) -> Iterator[dict[str, Any]]:
        """Images by column (:mod:`~dinov3.defect_station.store.schema`), each with ``decisions``, the number of its
        latest decision (0: none), and of that ``decision``, ``person``, ``class_name``, ``comment`` and
        ``decision_time``. Read page by page, so that a million rows need little memory and hold no lock.

        Args:
            order: ``doubt``: those nearest to a threshold first; without those that have no probability.
            embeddings: with the column ``embedding``, for
                :func:`~dinov3.defect_station.store.inspected.read_embedding`.
            filters: ``since`` (inclusive) and ``until`` (exclusive), as datetime or in the database's own text;
                ``after``: came later than the row of this ``id``; ``verdict``, ``model``, ``part``, ``name``,
                ``content_hash``, ``id``: a value or a list of them; ``disagreement``, ``undecided``, ``doubtful`` (for
                review, or ``disagreement``): True or False. None: as if not given.
        """
        last, left = None, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            with self._reading() as connection:
                page = connection.execute(select_rows(filters, order, size, embeddings, last)).mappings().all()
            yield from map(dict, page)
            if len(page) < size:
                return
            last, left = page[-1], None if left is None else left - size

    def scores(
        self, *, after: int = 0, last: int | None = None, since: datetime | str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Of all images in the order they came: ``id``, ``time``, ``name``, ``part``, ``model``,
        ``defect_probability`` and ``novelty``; little to read of each, so that there may be many.

        Args:
            after: rows with a larger ``id``, found at once however many there are before it.
            last: of those of the latest so many.
            since: of those from this time on.
        """
        with self._reading() as connection:
            after = max([after, *(connection.execute(query).scalar() or 0 for query in starts(last, since))])
        while True:
            with self._reading() as connection:
                page = connection.execute(select_scores(after, SCORES)).mappings().all()
            yield from (dict(row) for row in page if since is None or row["time"] >= as_text(since))
            if len(page) < SCORES:
                return
            after = page[-1]["id"]

    def counts(self, **filters: Any) -> dict[str, int]:
        """Number of images of each verdict; ``filters`` as those of :meth:`rows`, but for ``undecided``."""
        import sqlalchemy as sa

        verdict = inspections().c.verdict
        query = sa.select(verdict, sa.func.count()).where(*conditions(filters)).group_by(verdict)
        with self._reading() as connection:
            return {name: number for name, number in connection.execute(query)}

    def decisions(self, inspection_id: int) -> list[dict[str, Any]]:
        """All decisions on an image, the first one first."""
        import sqlalchemy as sa

        table = decisions()
        query = sa.select(table).where(table.c.inspection_id == inspection_id).order_by(table.c.number)
        return self.read(query)

    def read(self, query: Select) -> list[dict[str, Any]]:
        """All rows of a query of one's own (:mod:`~dinov3.defect_station.store.figures` has some)."""
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def prune(
        self,
        *,
        max_days: float | None = None,
        max_bytes: float | None = None,
        removed_files: Callable[[Sequence[RemovedFiles]], None] | None = None,
    ) -> int:
        """Remove the oldest images that nobody decided. Returns how many. Image and mask files stay where they are.

        Args:
            max_days: remove what is older.
            max_bytes: of rows that stay, those with decisions included, which stay even if they are more.
            removed_files: told of the files of removed rows, in pieces.
        """
        removed = 0
        if max_days is not None:
            oldest = time_text(datetime.now(timezone.utc) - timedelta(days=max_days))
            removed += self._remove(inspections().c.time < oldest, removed_files)
        if max_bytes is not None:
            first = self._first_that_fits(max_bytes)
            removed += 0 if first is None else self._remove(inspections().c.id < first, removed_files)
        if removed and self.engine.dialect.name == "sqlite":  # PostgreSQL gives space back by itself
            with told(self.place, self.seconds_locked), closing(self.engine.raw_connection()) as connection:
                connection.driver_connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def _first_that_fits(self, max_bytes: float) -> int | None:
        """The oldest image that may stay; None if all may."""
        import sqlalchemy as sa

        table, decided = inspections(), decisions()
        kept = sa.exists().where(decided.c.inspection_id == table.c.id)
        size = sa.func.coalesce(sa.func.sum(table.c.bytes), 0)
        with self._reading() as connection:
            room = max_bytes - connection.execute(sa.select(size).where(kept)).scalar()
            rest = sa.select(table.c.id, table.c.bytes).where(sa.not_(kept)).order_by(table.c.id.desc())
            last = None
            for number, length in connection.execution_options(yield_per=PAGE).execute(rest):
                room -= length
                if room < 0:
                    return number + 1 if last is None else last
                last = number
        return None

    def files_named(self, content_hashes: Iterable[str]) -> set[str]:
        """Paths of all images and masks that rows of these contents name."""
        import sqlalchemy as sa

        table = inspections()
        query = sa.select(table.c.image_path, table.c.mask_path).where(table.c.content_hash.in_(list(content_hashes)))
        with self._reading() as connection:
            return {path for row in connection.execute(query) for path in row if path}

    def _remove(self, condition: Any, removed_files: Callable[[Sequence[RemovedFiles]], None] | None) -> int:
        import sqlalchemy as sa

        table, decided = inspections(), decisions()
        kept = sa.exists().where(decided.c.inspection_id == table.c.id)
        some = sa.select(table.c.id).where(condition, sa.not_(kept)).order_by(table.c.id).limit(PRUNED)
        removed = 0
        while True:  # in pieces, so that nobody waits long for their turn to write
            with self._writing() as connection:
                files = (table.c.content_hash, table.c.image_path, table.c.mask_path)
                found = connection.execute(sa.delete(table).where(table.c.id.in_(some)).returning(*files)).all()
            if removed_files is not None:
                removed_files([RemovedFiles(*row) for row in found])
            removed += len(found)
            if len(found) < PRUNED:
                return removed
            time.sleep(0)

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(writes=False)

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._transaction(writes=True)

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[Connection]:
        with told(self.place, self.seconds_locked):
            engine = self.engine.execution_options(writes=writes)
            with engine.begin() as connection:
                yield connection
