"""Vectors in files, a chunk at a time: .npy, .parquet and .jsonl. No more than a chunk is ever in memory.

Rows keep their order, and in .parquet and .jsonl everything that stands beside the vectors.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from denoiser.errors import FileError
from denoiser.vectors import ALLOWED, first_unusable

CHUNK = 2048
_NPY = b"\x93NUMPY"  # how the format begins
_DAMAGED = (OSError, ValueError, OverflowError, SyntaxError, TokenError)  # what numpy.load raises of a damaged file
SUFFIXES = (".npy", ".parquet", ".jsonl")
Vectors = npt.NDArray[np.float32]


class Reader(Protocol):
    """A file of vectors: number of rows, numbers in each, and its chunks."""

    rows: int
    width: int

    def chunks(self) -> Iterator[Vectors]:
        """All vectors."""
        ...


def check(vectors: npt.NDArray[np.floating[Any]], start: int, path: Path) -> Vectors:
    """The same vectors as contiguous float32. Raises FileError naming row and column of a number that is none."""
    if unusable := first_unusable(vectors):
        row, column = unusable
        raise FileError(f"{path}: row {start + row}, column {column} is {vectors[row, column]:g}; {ALLOWED}")
    return np.array(vectors, dtype=np.float32, order="C")


class NpyReader:
    """A two-dimensional array of floating-point numbers."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                if file.read(len(_NPY)) != _NPY:
                    raise FileError(f"{path} is no .npy file; write it with numpy.save")
            self.array = np.load(path, mmap_mode="r", allow_pickle=False)
        except _DAMAGED as error:
            raise FileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        if self.array.ndim != 2 or self.array.dtype.kind != "f" or not self.array.size:
            raise FileError(
                f"{path} holds {self.array.dtype} of shape {self.array.shape}; floats of shape [rows, width] are needed"
            )
        self._path = path
        self.rows, self.width = self.array.shape

    def chunks(self, start: int = 0) -> Iterator[Vectors]:
        """The vectors from row `start`, a multiple of the chunk size, on."""
        for row in range(start, self.rows, CHUNK):
            yield check(self.array[row : row + CHUNK], row, self._path)


class ParquetReader:
    """A column of lists of numbers."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415

        try:
            self.file = parquet.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error
        names = self.file.schema_arrow.names
        if column not in names:
            raise FileError(f"{path} has no column {column!r}, only {', '.join(names)}; name one with --column")
        if names.count(column) > 1:
            raise FileError(f"{path} has {names.count(column)} columns {column!r}; rename all but one")
        _check_lists(self.file.schema_arrow.field(column).type, column, path)
        self.path, self.column, self.rows = path, column, self.file.metadata.num_rows
        first = next(self._read(batch_size=1, columns=[column]), None)
        if first is None:
            raise FileError(f"{path} has no rows")
        self.width = len(first.column(column)[0].as_py() or ())  # a.b also names b of a struct a

    def batches(self) -> Iterator[tuple[Any, Vectors]]:
        """Batches with all their columns, and their vectors."""
        start = 0
        for batch in self._read(batch_size=CHUNK):
            rows = batch.column(self.column)
            flat = rows.flatten().to_numpy(zero_copy_only=False)
            lengths = [len(row) if row.is_valid else 0 for row in rows]
            _same_width(lengths, self.width, start, self.path)
            yield batch, check(flat.reshape(len(rows), self.width), start, self.path)
            start += len(rows)

    def codecs(self) -> dict[str, str]:
        """How each column is compressed, by the path under which pyarrow writes it."""
        group = self.file.metadata.row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        return {
            column.path_in_schema.replace(".list.item", ".list.element"): column.compression.replace(
                "UNCOMPRESSED", "NONE"
            )
            for column in columns
        }

    def chunks(self) -> Iterator[Vectors]:
        """All vectors."""
        return (vectors for _, vectors in self.batches())

    def _read(self, **options: Any) -> Iterator[Any]:
        import pyarrow as pa  # noqa: PLC0415

        try:
            yield from self.file.iter_batches(**options)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: Exception) -> FileError:
    return FileError(f"cannot read {path}: {str(error).splitlines()[0]}")


def _check_lists(kind: Any, column: str, path: Path) -> None:
    from pyarrow import types  # noqa: PLC0415

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise FileError(f"{path}: column {column!r} holds {kind}; lists of numbers are needed")


def of_float32(kind: Any) -> Any:
    """The same Arrow type of lists, with float32 in them."""
    import pyarrow as pa  # noqa: PLC0415

    numbers = kind.value_field.with_type(pa.float32())
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(numbers, kind.list_size)
    return pa.large_list(numbers) if pa.types.is_large_list(kind) else pa.list_(numbers)


class JsonLinesReader:
    """One JSON object a line, with a field that holds a list of numbers."""

    def __init__(self, path: Path, field: str) -> None:
        self.path, self.field = path, field
        try:
            with path.open("rb") as file:
                self.rows = sum(1 for line in file if line.strip())
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror}") from error
        if not self.rows:
            raise FileError(f"{path} has no rows")
        with path.open("rb") as file:
            self.width = len(self._vector(next(line for line in file if line.strip()), 0)[1])

    def objects(self, start: int = 0) -> Iterator[tuple[list[dict[str, Any]], Vectors]]:
        """Chunks of objects from row `start` on, and their vectors."""
        with self.path.open("rb") as file:
            lines = (line for line in file if line.strip())
            for _ in range(start):
                next(lines)
            row = start
            while row < self.rows:
                chunk = [self._vector(next(lines), row + i) for i in range(min(CHUNK, self.rows - row))]
                _same_width([len(vector) for _, vector in chunk], self.width, row, self.path)
                vectors = np.array([vector for _, vector in chunk], dtype=np.float64)
                yield [whole for whole, _ in chunk], check(vectors, row, self.path)
                row += len(chunk)

    def chunks(self) -> Iterator[Vectors]:
        """All vectors."""
        return (vectors for _, vectors in self.objects())

    def _vector(self, line: bytes, row: int) -> tuple[dict[str, Any], list[float]]:
        try:
            whole = json.loads(line)
            vector = whole[self.field]
            if all(type(number) in (float, int) for number in vector):  # a bool is an int, too
                return whole, [float(number) for number in vector]
        except OverflowError as error:
            raise FileError(
                f"{self.path}: row {row} has a number that is too large in {self.field!r}; {ALLOWED}"
            ) from error
        except RecursionError as error:
            raise FileError(f"{self.path}: row {row} is nested too deep to read; leave such rows out") from error
        except (ValueError, KeyError, TypeError) as error:
            if "integer string conversion" in str(error):  # Python's limit on digits has no type of its own
                raise FileError(
                    f"{self.path}: row {row} has a number of over {sys.get_int_max_str_digits()} digits; leave it out"
                ) from error
            raise FileError(
                f"{self.path}: row {row} is no JSON object with a list of numbers in {self.field!r}; name the field "
                "with --column"
            ) from error
        raise FileError(f"{self.path}: row {row} has something that is no number in {self.field!r}")


def _same_width(lengths: list[int], width: int, start: int, path: Path) -> None:
    for number, length in enumerate(lengths):
        if length != width:
            raise FileError(f"{path}: row {start + number} has {length} numbers; the first row has {width}")


def open_vectors(path: Path, column: str) -> NpyReader | ParquetReader | JsonLinesReader:
    """The reader for a file, by its suffix. Raises FileError."""
    if path.suffix == ".npy":
        return NpyReader(path)
    if path.suffix == ".parquet":
        return ParquetReader(path, column)
    if path.suffix == ".jsonl":
        return JsonLinesReader(path, column)
    raise FileError(f"{path} is none of {', '.join(SUFFIXES)}; convert it first")


def write_npy_header(file: BinaryIO, rows: int, width: int) -> None:
    """The header of a float32 array [rows, width] in NumPy's format; its rows follow as they are."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, header)
