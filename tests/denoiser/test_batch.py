"""Whole files from the command line: three formats, resuming, refusals; and the Python API."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from denoiser import Denoiser
from denoiser.errors import FileError
from denoiser.files.batch import Options, denoise_file
from denoiser.files.formats import CHUNK
from denoiser.model.encoder import Embeddings
from denoiser.model.noise import add_noise
from denoiser.model.training import Recipe

ROWS = CHUNK + 500


@pytest.fixture(scope="module")
def noisy(clean: Embeddings) -> Embeddings:
    return add_noise(np.resize(clean, (ROWS, 384)), 0.1, 1)


def command(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "denoiser", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=240, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    return done.returncode, done.stderr


def through(denoiser: Denoiser, source: Path, target: Path, **options: object) -> list[int]:
    seen: list[int] = []
    denoise_file(source, target, denoiser, Options("model", **options), lambda *_: seen.append)  # type: ignore[arg-type]
    return seen


def expected(denoiser: Denoiser, noisy: Embeddings) -> Embeddings:
    return np.concatenate([denoiser.denoise(noisy[i : i + CHUNK]) for i in range(0, len(noisy), CHUNK)])


def test_a_numpy_file_is_denoised_as_its_vectors_are(tmp_path: Path, denoiser: Denoiser, noisy: Embeddings) -> None:
    np.save(tmp_path / "in.npy", noisy)
    code, err = command("denoise", tmp_path / "in.npy", tmp_path / "out.npy")
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


def _bad(name: str, path: Path) -> Path:
    ragged = '{"embedding": [1, 2]}\n{"embedding": [1]}\n'
    texts = {"missing.jsonl": '{"vector": [1.0]}\n', "ragged.jsonl": ragged, "text.jsonl": "hello\n", "other.csv": "1"}
    texts["huge.jsonl"] = f'{{"embedding": [1, 1{"0" * 400}]}}\n'
    columns = {"column": {"a": [1]}, "numbers": {"embedding": [1]}, "strings": {"embedding": ["1"]}}
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "flat.npy": np.zeros(3),
        "width.npy": np.zeros((2, 3)),
        "ints.npy": np.zeros((2, 384), np.int8),
    }
    if name in texts:
        (path / name).write_text(texts[name])
    elif name in arrays:
        np.save(path / name, arrays[name])
    elif name == "nan.npy":
        vectors = np.zeros((3, 384), np.float32)
        vectors[2, 7] = np.nan
        np.save(path / name, vectors)
    elif name == "objects.npy":
        np.save(path / name, np.array([{}, {}]), allow_pickle=True)
    elif name == "garbage.parquet":
        (path / name).write_bytes(b"garbage")
    elif name.endswith(".parquet"):
        parquet.write_table(pa.table(columns[name.removesuffix(".parquet")]), path / name)
    return path / name


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("absent.npy", "cannot read"),
        ("flat.npy", "floats of shape"),
        ("ints.npy", "int8"),
        ("objects.npy", "cannot read"),
        ("width.npy", "rows of 3 numbers; the model takes 384"),
        ("nan.npy", "row 2, column 7 is nan"),
        ("missing.jsonl", "row 0 is no JSON object with a list of numbers in 'embedding'"),
        ("text.jsonl", "row 0 is no JSON"),
        ("ragged.jsonl", "rows of 2 numbers"),
        ("huge.jsonl", "row 0 has a number that is too large"),
        ("column.parquet", "no column 'embedding'"),
        ("numbers.parquet", "column 'embedding' holds int64; lists of numbers are needed"),
        ("strings.parquet", "column 'embedding' holds string; lists of numbers are needed"),
        ("garbage.parquet", "cannot read"),
        ("other.csv", "convert it first"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path: Path, denoiser: Denoiser, name: str, complaint: str) -> None:
    source = _bad(name, tmp_path)
    with pytest.raises(FileError, match=complaint.replace("(", r"\(")) as refusal:
        through(denoiser, source, tmp_path / f"out{source.suffix}")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / f"out{source.suffix}").exists()


def test_the_verbs_of_the_python_api(tmp_path: Path, clean: Embeddings) -> None:
    recipe = Recipe(steps=20, batch=64)
    made = Denoiser.train(clean, recipe)
    made.save(tmp_path / "made")
    again = Denoiser.load(tmp_path / "made")
    noisy = add_noise(clean, 0.1, 1)
    np.testing.assert_allclose(again.denoise(noisy), made.denoise(noisy), atol=2e-3)
    assert again.manifest["recipe"]["steps"] == 20


def test_evaluate_measures_own_text_and_vectors(tmp_path: Path, clean: Embeddings) -> None:
    np.save(tmp_path / "own.npy", clean[:60])
    shutil.copy(Path(__file__).with_name("sentences.txt"), tmp_path / "own.txt")
    report, plot, figures = (tmp_path / name for name in ("report.md", "plot.png", "figures.json"))
    code, err = command(
        "evaluate", "--vectors", tmp_path / "own.npy", "--text", tmp_path / "own.txt",
        "--markdown", report, "--plot", plot, "--json", figures,
    )  # fmt: skip
    assert code == 0, err
    assert "own.npy, noise level 0.1" in report.read_text()
    assert "own.txt, noise level 0.1" in report.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert {m["method"] for m in json.loads(figures.read_text())} >= {"identity", "zeros", "Wiener", "neighbours"}


def test_evaluate_refuses_absent_vectors_and_those_of_another_width_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "width.npy", np.zeros((60, 3)))
    for name, complaint in (("absent.npy", "cannot read"), ("width.npy", "rows of 3 numbers; the model takes 384")):
        code, err = command("evaluate", "--vectors", tmp_path / name)
        assert (code, err.count("\n")) == (1, 1)
        assert complaint in err
