"""A conversion keeps every value, leaves a whole folder or none, and can be run again at any time."""

import io
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from chatglm2.checkpoint.convert import convert
from chatglm2.checkpoint.original import is_original
from chatglm2.errors import CheckpointError
from tests.chatglm2.checkpoint.tiny import CONFIG, original_tensors, write_original

LAYER, NATIVE_LAYER = "transformer.encoder.layers.1.", "model.layers.1."
KILLED_AT_LINE = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from chatglm2.checkpoint.convert import convert

class KillingFile:
    lines = 0
    def write(self, text):
        self.lines += text.count("\\n")
        if self.lines == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    def flush(self):
        pass

convert(Path(sys.argv[1]), Path(sys.argv[2]), console=Console(file=KillingFile()))
"""
PEAK_MEMORY = """
import sys
from pathlib import Path
from chatglm2.checkpoint.convert import convert

def bytes_of(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

before = bytes_of("VmRSS")
convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(bytes_of("VmHWM") - before)
"""


def native_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(file).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def converted_lines(source: Path, destination: Path) -> list[str]:
    log = io.StringIO()
    convert(source, destination, console=Console(file=log))
    return log.getvalue().splitlines()


def test_every_value_is_kept(tensors: dict[str, torch.Tensor], converted: Path) -> None:
    native = native_tensors(converted)
    assert torch.equal(native["model.embed_tokens.weight"], tensors["transformer.embedding.word_embeddings.weight"])
    assert torch.equal(native["lm_head.weight"], tensors["transformer.output_layer.weight"])
    assert torch.equal(native["model.norm.weight"], tensors["transformer.encoder.final_layernorm.weight"])
    for ours, theirs in (
        ("self_attn.o_proj", "self_attention.dense"),
        ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
        ("mlp.down_proj", "mlp.dense_4h_to_h"),
        ("input_layernorm", "input_layernorm"),
        ("post_attention_layernorm", "post_attention_layernorm"),
    ):
        assert torch.equal(native[f"{NATIVE_LAYER}{ours}.weight"], tensors[f"{LAYER}{theirs}.weight"])
    for kind in ("weight", "bias"):
        parts = [native[f"{NATIVE_LAYER}self_attn.{name}_proj.{kind}"] for name in "qkv"]
        assert [len(part) for part in parts] == [64, 32, 32]
        assert torch.equal(torch.cat(parts), tensors[f"{LAYER}self_attention.query_key_value.{kind}"])
    assert len(native) == 3 + 2 * 11


def test_the_index_names_the_shard_of_every_tensor(converted: Path) -> None:
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    for file in converted.glob("*.safetensors"):
        assert {key for key, name in index["weight_map"].items() if name == file.name} == load_file(file).keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in native_tensors(converted).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_transformers_loads_it_as_stored(
    tmp_path: Path, sentencepiece_model: Path, dtype: torch.dtype, suffix: str
) -> None:
    tensors = original_tensors(CONFIG, dtype)
    source = write_original(tmp_path / "original", tensors, sentencepiece_model, suffix=suffix)
    convert(source, tmp_path / "glm")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "glm")
    assert model.dtype == dtype
    assert model.config.max_position_embeddings == CONFIG["seq_length"]
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)
    assert torch.equal(model.lm_head.weight, tensors["transformer.output_layer.weight"])


def test_one_file_without_an_index_is_enough(
    tmp_path: Path, original: Path, converted: Path, tensors: dict[str, torch.Tensor]
) -> None:
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((original / name).read_bytes())
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    convert(tmp_path, tmp_path / "glm")
    assert native_tensors(tmp_path / "glm").keys() == native_tensors(converted).keys()


def test_the_golden_shard_files_hold_no_more_than_their_index_says(golden_converted: Path) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(golden_converted, output_loading_info=True)
    assert model.num_parameters() > 0
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_every_user_may_read_the_files(converted: Path) -> None:
    assert {path.stat().st_mode & 0o444 for path in converted.iterdir()} == {0o444}


def test_only_original_folders_are_original(original: Path, converted: Path, tmp_path: Path) -> None:
    assert is_original(original)
    assert not is_original(converted)
    assert not is_original(tmp_path)


def test_a_log_gets_a_line_for_each_shard(original: Path, tmp_path: Path) -> None:
    lines = converted_lines(original, tmp_path / "glm")
    assert [line.partition(" (")[0] for line in lines[:3]] == [f"converting shard {i} of 3" for i in (1, 2, 3)]
    assert lines[3:] == ["writing what is still in memory to the disk", f"converted into {tmp_path / 'glm'}"]


def test_a_folder_with_brackets_is_named_as_it_is(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a[" / "b]:x:"
    assert converted_lines(original, folder)[-1] == f"converted into {folder}"
    assert converted_lines(original, folder) == [f"{folder} is converted already"]


def test_a_terminal_gets_a_bar(original: Path, tmp_path: Path) -> None:
    log = io.StringIO()
    convert(original, tmp_path / "glm", console=Console(file=log, force_terminal=True))
    assert "Converting" in log.getvalue()
    assert "100%" in log.getvalue()


def test_a_second_run_changes_nothing(original: Path, tmp_path: Path) -> None:
    converted_lines(original, tmp_path / "glm")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "glm").iterdir()}
    assert converted_lines(original, tmp_path / "glm") == [f"{tmp_path / 'glm'} is converted already"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "glm").iterdir()} == before


def test_other_weights_are_converted_anew(tmp_path: Path, sentencepiece_model: Path) -> None:
    tensors = original_tensors(CONFIG)
    source = write_original(tmp_path / "original", tensors, sentencepiece_model)
    convert(source, tmp_path / "glm")
    key = "transformer.output_layer.weight"
    shard = min(source.glob("*.bin"))
    torch.save(torch.load(shard, weights_only=True) | {key: tensors[key] + 1}, shard)
    convert(source, tmp_path / "glm")
    assert torch.equal(native_tensors(tmp_path / "glm")["lm_head.weight"], tensors[key] + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glm", "original"]


@pytest.mark.parametrize("damage", ["remove a file", "cut a file"])
def test_a_converted_folder_that_was_damaged_is_made_anew(
    original: Path, converted: Path, tmp_path: Path, damage: str
) -> None:
    convert(original, tmp_path / "glm")
    victim = tmp_path / "glm" / "model-00002-of-00003.safetensors"
    if damage == "cut a file":
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        victim.unlink()
    convert(original, tmp_path / "glm")
    assert files(tmp_path / "glm") == files(converted)


def test_a_folder_of_something_else_is_left_alone(original: Path, tmp_path: Path) -> None:
    (tmp_path / "glm").mkdir()
    (tmp_path / "glm" / "thesis.txt").write_text("important")
    with pytest.raises(CheckpointError, match="exists and is no converted checkpoint"):
        convert(original, tmp_path / "glm")
    assert files(tmp_path / "glm") == {"thesis.txt": b"important"}


def test_an_empty_folder_is_filled(original: Path, converted: Path, tmp_path: Path) -> None:
    convert(original, tmp_path)
    assert files(tmp_path) == files(converted)


@pytest.mark.parametrize("line", [1, 2, 3, 4, 5])
def test_killed_at_any_point_the_next_run_gives_the_same_files(
    original: Path, converted: Path, tmp_path: Path, line: int
) -> None:
    destination = tmp_path / "glm"
    command = [sys.executable, "-c", KILLED_AT_LINE, str(original), str(destination), str(line)]
    assert subprocess.run(command, check=False).returncode == -9
    assert destination.exists() == (line == 5)  # only after the last line of work
    convert(original, destination)
    assert files(destination) == files(converted)
    assert list(tmp_path.iterdir()) == [destination]


def test_two_at_once_give_one_whole_folder(original: Path, converted: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_LINE, str(original), str(tmp_path / "glm"), "-1"]
    runs = [subprocess.Popen(command) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert files(tmp_path / "glm") == files(converted)


def test_memory_stays_near_one_shard(sentencepiece_model: Path) -> None:
    config = CONFIG | {"num_layers": 9, "hidden_size": 1024, "ffn_hidden_size": 4096}
    with TemporaryDirectory() as folder:  # half a gigabyte, not to be kept as pytest keeps its folders
        source = write_original(Path(folder, "original"), original_tensors(config), sentencepiece_model, config)
        sizes = [path.stat().st_size for path in source.glob("*.bin")]
        command = [sys.executable, "-c", PEAK_MEMORY, str(source), str(Path(folder, "glm"))]
        peak = int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert sum(sizes) > 2.5 * max(sizes)
    assert peak < 1.5 * max(sizes) + 30e6  # the tokenizer takes some too
