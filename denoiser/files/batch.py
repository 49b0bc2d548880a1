"""Denoising whole files: streamed, with progress, and resumed where a run was cut off.

The output appears under its name when it is whole. Until then its rows are in NAME.part, and NAME.part.json says how
many are there and from what input, model and options they came. Adapting reads the whole input once more, first.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from denoiser.errors import DenoiserError, FileError
from denoiser.files.formats import (
    JsonLinesReader,
    NpyReader,
    ParquetReader,
    Reader,
    Vectors,
    of_float32,
    open_vectors,
    write_npy_header,
)
from denoiser.files.outputs import alone_at, unwritable
from denoiser.model import Mode
from denoiser.model.adaptation import Adaptation
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import fast_precision
from denoiser.model.noise import Level, levels_of

_HEAD = 1 << 20


@dataclass(frozen=True)
class Options:
    """What decides the output besides the input. A noise level of "auto" is estimated for each 2,048 rows.

    `model` tells one checkpoint from another.
    """

    model: str
    noise_level: Level = "auto"
    mode: Mode = "neighbours"
    column: str = "embedding"
    adapt: bool = False


def repair(denoiser: Denoiser, vectors: Vectors, options: Options) -> Vectors:
    """Vectors [n, width] denoised; large products in the fastest precision that changes a number by less than 0.002."""
    with fast_precision():
        return denoiser.denoise(vectors, levels_of(vectors, options.noise_level), options.mode)


@dataclass(frozen=True)
class Denoised:
    """How many rows were written, and what they were adapted to, if to anything."""

    rows: int
    adaptation: Adaptation | None


class _Journal:
    """How far an output is, kept beside it."""

    def __init__(self, target: Path, source: Path, options: Options) -> None:
        self.part = target.with_name(target.name + ".part")
        self._path = target.with_name(target.name + ".part.json")
        status = source.stat()
        with source.open("rb") as file:
            head = hashlib.sha256(file.read(_HEAD)).hexdigest()
        self._run = {
            "source": [str(source.resolve()), status.st_size, status.st_mtime_ns, head],
            "options": asdict(options),
        }

    def done(self) -> tuple[int, int]:
        """Rows and bytes that an earlier run of the same kind has written; zeros when there is none."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._path.read_text())
            if kept["run"] == self._run and self.part.stat().st_size >= kept["bytes"]:
                return kept["rows"], kept["bytes"]
        return 0, 0

    def note(self, rows: int, size: int) -> None:
        """So many rows are written."""
        incoming = self._path.with_suffix(".new")
        incoming.write_text(json.dumps({"run": self._run, "rows": rows, "bytes": size}))
        incoming.rename(self._path)

    def finish(self, target: Path) -> None:
        """The output is whole."""
        self.part.rename(target)
        self._path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Nothing is kept of an output that cannot become whole."""
        for path in (self.part, self._path):
            path.unlink(missing_ok=True)


Repair = Callable[[Vectors], Vectors]
Note = Callable[[int], None]
Tracking = Callable[[str, int], Note]


def _rows_of(reader: NpyReader | JsonLinesReader, start: int, repair: Repair) -> Iterator[tuple[int, bytes]]:
    """Each chunk's number of rows and its bytes in the output."""
    if isinstance(reader, NpyReader):
        for vectors in reader.chunks(start):
            yield len(vectors), repair(vectors).astype("<f4").tobytes()
        return
    for objects, vectors in reader.objects(start):
        repaired = repair(vectors).astype(np.float64).round(8)
        changed = ({**o, reader.field: v} for o, v in zip(objects, repaired.tolist(), strict=True))
        lines = [json.dumps(o, ensure_ascii=False) for o in changed]
        yield len(vectors), ("\n".join(lines) + "\n").encode(errors="backslashreplace")  # halves of surrogate pairs


def _append(reader: NpyReader | JsonLinesReader, journal: _Journal, repair: Repair, advance: Note) -> None:
    rows, size = journal.done()
    advance(rows)
    with journal.part.open("r+b" if rows else "wb") as file:
        if rows:
            file.truncate(size)
            file.seek(size)
        elif isinstance(reader, NpyReader):
            write_npy_header(file, reader.rows, reader.width)
        for more, content in _rows_of(reader, rows, repair):
            file.write(content)
            file.flush()
            rows += more
            journal.note(rows, file.tell())
            advance(more)


def _rewrite(reader: ParquetReader, part: Path, repair: Repair, advance: Note) -> None:
    """Parquet files cannot be continued, so this always starts anew."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    schema = reader.file.schema_arrow
    position = schema.get_field_index(reader.column)
    field = schema.field(position).with_type(of_float32(schema.field(position).type))
    with parquet.ParquetWriter(part, schema.set(position, field), compression=reader.codecs()) as writer:
        for batch, vectors in reader.batches():
            flat = pa.array(repair(vectors).ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, reader.width).cast(field.type)
            writer.write_batch(batch.set_column(position, field, column))
            advance(len(vectors))


def _adapt(denoiser: Denoiser, reader: Reader, options: Options, advance: Note) -> Denoiser:
    def chunks() -> Iterator[Vectors]:
        for vectors in reader.chunks():
            yield vectors
            advance(len(vectors))

    with fast_precision():
        return denoiser.adapted_to(chunks(), options.noise_level)


def denoise_file(source: Path, target: Path, denoiser: Denoiser, options: Options, tracking: Tracking) -> Denoised:
    """Denoise a file into another one of the same format.

    `tracking` is told what begins and its number of rows, and returns what is told of rows done. Raises FileError, also
    where another run writes the same output.
    """
    if source.suffix != target.suffix:
        raise FileError(f"{source} and {target} differ in format; give both names the same ending")
    if source.resolve() == target.resolve():
        raise FileError(f"{target} is the input itself; name another output")
    if target.is_dir():
        raise FileError(f"{target} is a folder; name a file")
    reader = open_vectors(source, options.column)
    if reader.width != denoiser.width:
        raise FileError(f"{source} has rows of {reader.width} numbers; the model takes {denoiser.width}")
    journal = _Journal(target, source, options)
    with alone_at(journal.part):
        try:
            if options.adapt:
                denoiser = _adapt(denoiser, reader, options, tracking("adapting", reader.rows))
            advance = tracking("denoising", reader.rows)
            if isinstance(reader, ParquetReader):
                _rewrite(reader, journal.part, lambda vectors: repair(denoiser, vectors, options), advance)
            else:
                _append(reader, journal, lambda vectors: repair(denoiser, vectors, options), advance)
            journal.finish(target)
        except DenoiserError:
            journal.discard()
            raise
        except OSError as error:
            if isinstance(reader, ParquetReader):
                journal.discard()
            raise unwritable(target, error) from error
    return Denoised(reader.rows, denoiser.adaptation)
