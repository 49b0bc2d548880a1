"""Files that hold no vectors, or none that can be used: each is refused by what is wrong with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from denoiser.errors import FileError
from denoiser.files.batch import Options, denoise_file
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings


def refuse(denoiser: Denoiser, source: Path) -> None:
    denoise_file(source, source.with_stem("out"), denoiser, Options("model"), lambda *_: lambda _: None)


def _bad(name: str, path: Path) -> Path:
    ragged = '{"embedding": [1, 2]}\n{"embedding": [1]}\n'
    texts = {"missing.jsonl": '{"vector": [1.0]}\n', "ragged.jsonl": ragged, "text.jsonl": "hello\n", "other.csv": "1"}
    texts["huge.jsonl"] = f'{{"embedding": [1, 1{"0" * 400}]}}\n'
    texts["digits.jsonl"] = f'{{"embedding": [1], "id": {"1" * 5000}}}\n'
    texts["bools.jsonl"] = '{"embedding": [true, false]}\n'
    texts["strings.jsonl"] = '{"embedding": ["1", "2"]}\n'
    texts["deep.jsonl"] = f'{{"embedding": [1], "more": {"[" * 100_000}{"]" * 100_000}}}\n'
    texts |= {"empty.npy": "", "text.npy": "hello\n"}
    least = pa.array([[-32768] * 384], pa.list_(pa.int16()))
    columns = {
        "least": {"embedding": least},
        "column": {"a": [1]},
        "numbers": {"embedding": [1]},
        "strings": {"embedding": ["1"]},
    }
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
    elif name == "zip.npy":
        with (path / name).open("wb") as file:
            np.savez(file, np.zeros((2, 384)))
    elif name == "header.npy":
        np.save(path / name, np.zeros((2, 384)))
        (path / name).write_bytes((path / name).read_bytes().replace(b"}", b" "))
    elif name == "two.parquet":
        column = pa.array([[1.0]])
        parquet.write_table(pa.table([column, column], names=["embedding", "embedding"]), path / name)
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
        ("empty.npy", "is no .npy file; write it with numpy.save"),
        ("text.npy", "is no .npy file; write it with numpy.save"),
        ("zip.npy", "is no .npy file; write it with numpy.save"),
        ("header.npy", "cannot read"),
        ("objects.npy", "cannot read"),
        ("width.npy", "rows of 3 numbers; the model takes 384"),
        ("nan.npy", "row 2, column 7 is nan"),
        ("missing.jsonl", "row 0 is no JSON object with a list of numbers in 'embedding'"),
        ("text.jsonl", "row 0 is no JSON"),
        ("ragged.jsonl", "rows of 2 numbers"),
        ("huge.jsonl", "row 0 has a number that is too large"),
        ("digits.jsonl", "row 0 has a number of over 4300 digits; leave it out"),
        ("bools.jsonl", "row 0 has something that is no number"),
        ("strings.jsonl", "row 0 has something that is no number"),
        ("deep.jsonl", "row 0 is nested too deep to read"),
        ("two.parquet", "has 2 columns 'embedding'; rename all but one"),
        ("column.parquet", "no column 'embedding'"),
        ("numbers.parquet", "column 'embedding' holds int64; lists of numbers are needed"),
        ("strings.parquet", "column 'embedding' holds string; lists of numbers are needed"),
        ("least.parquet", "row 0, column 0 is -32768; numbers must be finite"),
        ("garbage.parquet", "cannot read"),
        ("other.csv", "convert it first"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path: Path, denoiser: Denoiser, name: str, complaint: str) -> None:
    source = _bad(name, tmp_path)
    with pytest.raises(FileError, match=complaint.replace("(", r"\(")) as refusal:
        refuse(denoiser, source)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("out*"))


def test_a_parquet_file_damaged_inside_is_refused_by_name(
    tmp_path: Path, denoiser: Denoiser, clean: Embeddings
) -> None:
    source = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"embedding": list(clean)}), source)
    content = source.read_bytes()
    source.write_bytes(content[:20] + b"\xff" * 2000 + content[2020:])
    with pytest.raises(FileError, match=r"cannot read .*in\.parquet"):
        refuse(denoiser, source)
