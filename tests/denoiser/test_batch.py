"""Whole files from the command line: three formats, resuming, refusals."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from denoiser import Denoiser
from denoiser.errors import FileError
from denoiser.files.batch import Note, Options, denoise_file
from denoiser.files.formats import CHUNK
from denoiser.model.encoder import Embeddings
from denoiser.model.noise import add_noise
from tests.denoiser.commands import outcome

ROWS = CHUNK + 500


@pytest.fixture(scope="module")
def noisy(clean: Embeddings) -> Embeddings:
    return add_noise(np.resize(clean, (ROWS, 384)), 0.1, 1)


def through(denoiser: Denoiser, source: Path, target: Path, **options: object) -> list[int]:
    seen: list[int] = []
    denoise_file(source, target, denoiser, Options("model", **options), lambda *_: seen.append)  # type: ignore[arg-type]
    return seen


def expected(denoiser: Denoiser, noisy: Embeddings) -> Embeddings:
    return np.concatenate([denoiser.denoise(noisy[i : i + CHUNK]) for i in range(0, len(noisy), CHUNK)])


def test_a_numpy_file_is_denoised_as_its_vectors_are(tmp_path: Path, denoiser: Denoiser, noisy: Embeddings) -> None:
    np.save(tmp_path / "in.npy", noisy)
    code, _, err = outcome("denoise", tmp_path / "in.npy", tmp_path / "out.npy")
    assert code == 0, err
    assert f"denoising: {ROWS} of {ROWS} vectors" in err
    out = np.load(tmp_path / "out.npy")
    assert (out.dtype, out.shape) == (np.float32, noisy.shape)
    cosines = (out * expected(denoiser, noisy)).sum(1)
    assert cosines.min() > 0.9995  # products in bfloat16 where the processor has it
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", "out.npy"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_and_orders_are_read(
    tmp_path: Path, denoiser: Denoiser, noisy: Embeddings, dtype: type[np.floating]
) -> None:
    np.save(tmp_path / "in.npy", np.asfortranarray(noisy[:100].astype(dtype)))
    through(denoiser, tmp_path / "in.npy", tmp_path / "out.npy", noise_level=0.1)
    assert np.load(tmp_path / "out.npy").shape == (100, 384)


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_a_run_that_was_cut_off_goes_on_where_it_was(
    tmp_path: Path, denoiser: Denoiser, noisy: Embeddings, suffix: str
) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    _write(source, noisy)
    through(denoiser, source, whole := tmp_path / f"whole{suffix}")

    class CutOffError(Exception):
        pass

    def cut(done: int) -> None:
        if done:
            raise CutOffError

    with pytest.raises(CutOffError):
        denoise_file(source, target, denoiser, Options("model"), lambda *_: cut)
    assert not target.exists()
    with target.with_name(target.name + ".part").open("ab") as part:
        part.write(b"half a row")
    assert through(denoiser, source, target)[0] == CHUNK
    assert target.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.part*"))


def test_another_model_or_input_starts_anew(tmp_path: Path, denoiser: Denoiser, noisy: Embeddings) -> None:
    np.save(tmp_path / "in.npy", noisy)
    target = tmp_path / "out.npy"

    def cut(done: int) -> None:
        assert done == 0

    with pytest.raises(AssertionError):
        denoise_file(tmp_path / "in.npy", target, denoiser, Options("other"), lambda *_: cut)
    assert through(denoiser, tmp_path / "in.npy", target)[0] == 0


def test_a_journal_that_is_none_starts_anew(tmp_path: Path, denoiser: Denoiser, noisy: Embeddings) -> None:
    np.save(tmp_path / "in.npy", noisy[:50])
    (tmp_path / "out.npy.part.json").write_text("[]")
    assert through(denoiser, tmp_path / "in.npy", tmp_path / "out.npy")[0] == 0


@pytest.mark.parametrize("adapt", [False, True])
def test_a_second_run_to_the_same_output_is_refused_and_the_first_goes_on(
    tmp_path: Path, denoiser: Denoiser, noisy: Embeddings, adapt: bool
) -> None:
    source, target = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(source, noisy[:300])

    def meanwhile(_: int) -> None:
        with pytest.raises(FileError, match=r"another run writes .*out\.npy\.part"):
            through(denoiser, source, target, mode="reconstruct")

    denoise_file(source, target, denoiser, Options("model", adapt=adapt), lambda *_: meanwhile)
    through(denoiser, source, tmp_path / "alone.npy", adapt=adapt)
    assert target.read_bytes() == (tmp_path / "alone.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.npy", "in.npy", "out.npy"]


def _write(path: Path, vectors: Embeddings) -> None:
    if path.suffix == ".npy":
        np.save(path, vectors)
    elif path.suffix == ".jsonl":
        lines = (json.dumps({"id": i, "text": "größer", "embedding": row}) for i, row in enumerate(vectors.tolist()))
        path.write_text("\n".join(lines) + "\n")
    else:
        table = pa.table(
            {"id": pa.array(range(len(vectors))), "embedding": list(vectors), "text": ["x"] * len(vectors)}
        )
        parquet.write_table(table, path)


def test_everything_beside_the_vectors_is_kept(tmp_path: Path, denoiser: Denoiser, noisy: Embeddings) -> None:
    rows = noisy[: CHUNK + 10]
    for suffix in (".jsonl", ".parquet"):
        _write(tmp_path / f"in{suffix}", rows)
        through(denoiser, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "embedding", "text"]
    assert table["id"].to_pylist() == list(range(len(rows)))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(len(rows)))
    assert lines[0]["text"] == "größer"
    for found in (table["embedding"].to_pylist(), [line["embedding"] for line in lines]):
        assert (np.array(found) * expected(denoiser, rows)).sum(1).min() > 0.9995


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda numbers: pa.list_(numbers, 384)])
def test_the_schema_and_the_compression_of_a_parquet_file_are_kept(
    tmp_path: Path, denoiser: Denoiser, clean: Embeddings, kind: Callable[[pa.Field], pa.DataType]
) -> None:
    numbers = pa.field("element", pa.float32(), nullable=False)
    field = pa.field("embedding", kind(numbers), nullable=False, metadata={"encoder": "MiniLM"})
    schema = pa.schema([pa.field("id", pa.int8(), nullable=False), field], metadata={"store": "team"})
    table = pa.table([list(range(50)), list(clean[:50])], schema)
    for codec in ("ZSTD", "NONE", {"id": "NONE", "embedding.list.element": "ZSTD"}):
        parquet.write_table(table, tmp_path / "in.parquet", compression=codec)
        through(denoiser, tmp_path / "in.parquet", tmp_path / "out.parquet")
        before, after = (parquet.ParquetFile(tmp_path / f"{name}.parquet") for name in ("in", "out"))
        assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
        chunks = [file.metadata.row_group(0).to_dict()["columns"] for file in (before, after)]
        assert [c["compression"] for c in chunks[1]] == [c["compression"] for c in chunks[0]]


def test_a_column_with_a_dot_in_its_name_is_not_that_of_a_struct(
    tmp_path: Path, denoiser: Denoiser, clean: Embeddings
) -> None:
    table = pa.table({"a": [{"b": [1.0]}] * 50, "a.b": list(clean[:50])})
    parquet.write_table(table, tmp_path / "in.parquet")
    through(denoiser, tmp_path / "in.parquet", tmp_path / "out.parquet", column="a.b")
    assert parquet.read_table(tmp_path / "out.parquet")["a"].equals(table["a"])


def test_half_of_a_surrogate_pair_beside_the_vectors_is_kept(
    tmp_path: Path, denoiser: Denoiser, clean: Embeddings
) -> None:
    said = r'"\ud83d and \ud83d\ude00"'
    (tmp_path / "in.jsonl").write_text(f'{{"said": {said}, "embedding": {clean[0].tolist()}}}\n')
    through(denoiser, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["said"] == json.loads(said)


def test_a_file_refused_halfway_leaves_nothing_behind(tmp_path: Path, denoiser: Denoiser, noisy: Embeddings) -> None:
    broken = noisy.copy()
    broken[CHUNK + 1, 0] = np.nan
    for suffix in (".npy", ".parquet"):
        _write(tmp_path / f"in{suffix}", broken)
        with pytest.raises(FileError, match=f"row {CHUNK + 1}, column 0 is nan"):
            through(denoiser, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    assert not list(tmp_path.glob("out*"))


@contextmanager
def little_room() -> Iterator[None]:
    """No file may become larger than 100,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_of_a_file_that_cannot_be_continued_nothing_is_left_where_there_is_no_room(
    tmp_path: Path, denoiser: Denoiser, clean: Embeddings
) -> None:
    _write(tmp_path / "in.parquet", clean)
    with little_room(), pytest.raises(FileError, match=r"cannot write .*out\.parquet: .*File too large; make room"):
        through(denoiser, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize("adapt", [False, True])
def test_a_target_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, denoiser: Denoiser, clean: Embeddings, adapt: bool
) -> None:
    np.save(tmp_path / "in.npy", clean)
    (tmp_path / "folder.npy").mkdir()
    begun: list[str] = []

    def tracking(what: str, _: int) -> Note:
        begun.append(what)
        return lambda _: None

    for name, complaint in (("folder.npy", "is a folder; name a file"), ("absent/out.npy", "No such file")):
        with pytest.raises(FileError, match=complaint):
            denoise_file(tmp_path / "in.npy", tmp_path / name, denoiser, Options("model", adapt=adapt), tracking)
    assert not begun
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.npy", "in.npy"]
