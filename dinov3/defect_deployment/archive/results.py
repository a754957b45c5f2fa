"""Files of results: which images each is to hold, fixed once and for all, and which of them are done."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from dinov3.data.defect_images import ImageReadError
from dinov3.defect_deployment.archive.places import Place
from dinov3.defect_errors import DefectError
from dinov3.inference.records import Record, columns, table_row

PLAN, FOLDER = "images.parquet", "results"
TEXTS = ("image", "verdict", "predicted_class", "reason", "error")
READERS = 16  # files that are looked at together


class Results:
    """The files ``results/000000.parquet``, ... below a place.

    Which images a file holds stands in ``images.parquet`` before the first is inspected, and never changes: whoever
    does a file again, after a kill or beside another process, writes the same one.

    Attributes:
        files: for each file the names of its images, in their order.
    """

    def __init__(self, place: Place):
        self.place, self.files = place, list[list[str]]()

    def load(self) -> None:
        """Read what was planned, if anything was.

        Raises:
            DefectError: the plan is damaged.
        """
        if not self.place.has(PLAN):
            return
        try:
            table = pq.read_table(io.BytesIO(self.place.read(PLAN)), columns=["file", "image"])
        except (ImageReadError, OSError, ValueError) as error:
            raise DefectError(
                f"{self.place.where(PLAN)}: damaged, so that nobody knows what is done ({error}); choose another "
                f"{self.place.flag}"
            ) from None
        for number, image in zip(table["file"].to_pylist(), table["image"].to_pylist(), strict=True):
            if number == len(self.files):
                self.files.append([])
            self.files[number].append(image)

    def plan(self, images: Sequence[str], images_per_file: int) -> None:
        """Put those ``images`` that no file has yet into new files, and note it."""
        planned = {image for file in self.files for image in file}
        new = [image for image in images if image not in planned]
        if not new:
            return
        self.files += [new[start : start + images_per_file] for start in range(0, len(new), images_per_file)]
        numbers = [number for number, file in enumerate(self.files) for _ in file]
        everything = [image for file in self.files for image in file]
        self.place.write(PLAN, to_parquet(pa.table({"file": pa.array(numbers, pa.int32()), "image": everything})))

    def unfinished(self, retry_errors: bool) -> list[int]:
        """Numbers of the files that are not there, or not whole; or have an error, if those are to be done anew."""

        def needed(number: int) -> bool:
            verdicts = self.verdicts(number)
            return verdicts is None or (retry_errors and bool(verdicts["error"]))

        with ThreadPoolExecutor(READERS) as pool:
            return [number for number, todo in enumerate(pool.map(needed, range(len(self.files)))) if todo]

    def verdicts(self, number: int) -> Counter[str] | None:
        """How many images of a file have each verdict, and ``error``; None if it is not there, or not whole."""
        if not self.place.has(name_of(number)):
            return None
        try:
            content = io.BytesIO(self.place.read(name_of(number)))
            table = pq.read_table(content, columns=["image", "verdict"])
        except (ImageReadError, OSError, ValueError):
            return None
        if table["image"].to_pylist() != self.files[number]:
            return None
        return Counter(verdict or "error" for verdict in table["verdict"].to_pylist())

    def total(self) -> Counter[str]:
        """Of all files.

        Raises:
            DefectError: one is missing, or does not hold its images.
        """
        found = Counter[str]()
        with ThreadPoolExecutor(READERS) as pool:
            for number, verdicts in enumerate(pool.map(self.verdicts, range(len(self.files)))):
                if verdicts is None:
                    raise DefectError(
                        f"{self.place.where(name_of(number))}: not there, or damaged; add --resume to do it again"
                    )
                found += verdicts
        return found


def name_of(number: int) -> str:
    """Of a file of results."""
    return f"{FOLDER}/{number:06}.parquet"


def results_table(records: Sequence[Record], classes: Sequence[str]) -> pa.Table:
    """The rows of ``predictions.csv`` with types: numbers are float64 (``num_regions`` int32), what is empty is null,
    and ``disagreement`` is true or false; ``error`` is never null."""
    rows = [table_row(record) | {"disagreement": record.get("disagreement")} for record in records]
    return pa.Table.from_pylist(rows, pa.schema(list(_fields(classes))))


def _fields(classes: Sequence[str]) -> Iterator[tuple[str, pa.DataType]]:
    kinds = dict.fromkeys(TEXTS, pa.string()) | {"num_regions": pa.int32(), "disagreement": pa.bool_()}
    for name in columns(classes):
        yield name, kinds.get(name, pa.float64())


def to_parquet(table: pa.Table) -> bytes:
    """A file's content."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()
