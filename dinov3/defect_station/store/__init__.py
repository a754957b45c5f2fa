"""The results database: a row per inspected image, and a row per decision of a person on one.

::

    with Store.open("results.sqlite") as store:                 # or postgresql://user:password@host/database
        store.add([Inspected(name="a.png", content_hash=..., ...)])   # returns how many were new
        for row in store.rows(verdict="review", undecided=True, order="doubt", limit=50):
            store.decide(row["id"], "Li", "reject", class_name="scratch", after=row["decisions"])

No row is ever changed. What is added is on the disk when :meth:`Store.add` and :meth:`Store.decide` return. An image is
one row however often it is added: what counts is its name, its content, the model, and whatever else decides its
verdict (:attr:`Inspected.key`). Only :meth:`Store.prune` removes rows, and none that a person decided.

A :class:`Store` may be used by several threads, a database by several processes. SQLite databases are in WAL mode, so
readers and the writer do not wait for each other; they belong on a local disk, not on a network folder.
"""

from dinov3.defect_station.store.database import DecidedError
from dinov3.defect_station.store.inspected import Inspected
from dinov3.defect_station.store.store import Store

__all__ = ["DecidedError", "Inspected", "Store"]
