"""What cannot be converted exactly is refused in one line that names it, and nothing is left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chatglm2.checkpoint.convert import convert
from chatglm2.errors import CheckpointError
from tests.chatglm2.checkpoint.tiny import CONFIG, train_sentencepiece, write_shard

LAYER = "transformer.encoder.layers.0."
Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(original, tmp_path / "original"))


def refusal(source: Path) -> str:
    """The message; checks that it is one line and that no folder is left, whole or half."""
    destination = source.with_name("glm")
    with pytest.raises(CheckpointError) as caught:
        convert(source, destination)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(source))
    assert list(source.parent.iterdir()) == [source]
    return message


def first_shard(source: Path) -> Path:
    return source / "pytorch_model-00001-of-00003.bin"


def change_shard(source: Path, change: Change, *, with_index: bool = True) -> None:
    """Rewrites the first shard, and its index with it."""
    path = first_shard(source)
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    write_shard(path, tensors)
    index = source / "pytorch_model.bin.index.json"
    weight_map = {key: name for key, name in json.loads(index.read_text())["weight_map"].items() if name != path.name}
    if with_index:
        index.write_text(json.dumps({"weight_map": weight_map | dict.fromkeys(tensors, path.name)}))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"rope_ratio": 50}, "rope_ratio 50"),
        ({"quantization_bit": 4}, "quantization_bit 4"),
        ({"quantization_bit": 8}, "quantization_bit 8"),
        ({"pre_seq_len": 128}, "P-tuning prefix encoder (pre_seq_len 128)"),
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"model_type": None}, "model_type None"),
        ({"position_encoding_2d": True, "inner_hidden_size": 16384}, "ChatGLM-1"),
        ({"padded_vocab_size": 151552, "rope_ratio": 500}, "GLM-4"),
        ({"_name_or_path": "THUDM/chatglm3-6b"}, "ChatGLM3"),
        ({"add_bias_linear": True}, "add_bias_linear is true"),
        ({"multi_query_attention": False}, "multi_query_attention is false"),
        ({"rmsnorm": False}, "rmsnorm is false"),
        ({"num_layers": "two"}, "num_layers is 'two'"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"multi_query_group_num": 3}, "4 heads cannot share 3 groups"),
        ({"hidden_size": 48}, "config.json asks for (704, 48)"),
        ({"num_layers": 3}, "7 keys missing, such as transformer.encoder.layers.2"),
        ({"num_layers": 1}, "7 unknown keys, such as transformer.encoder.layers.1"),
        ({"padded_vocab_size": 64}, "config.json only 64"),
    ],
)
def test_other_configs(source: Path, changes: dict[str, Any], found: str) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | changes))
    assert found in refusal(source)


@pytest.mark.parametrize(("content", "found"), [("{", "cannot be read as JSON"), ("[]", "no JSON object")])
def test_a_broken_config(source: Path, content: str, found: str) -> None:
    (source / "config.json").write_text(content)
    assert found in refusal(source)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_a_missing_file(source: Path, name: str) -> None:
    (source / name).unlink()
    assert f"{name}: not found" in refusal(source)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/config\.json: not found"):
        convert(tmp_path / "nowhere", tmp_path / "glm")


def test_no_weights(source: Path) -> None:
    for path in source.glob("*.bin*"):
        path.unlink()
    assert "no weights found" in refusal(source)


def test_a_missing_shard(source: Path) -> None:
    first_shard(source).unlink()
    assert "1 of 3 shards missing: pytorch_model-00001-of-00003.bin" in refusal(source)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": {"a": "../other.bin"}}', '{"weight_map": {}}'])
def test_a_broken_index(source: Path, content: str) -> None:
    (source / "pytorch_model.bin.index.json").write_text(content)
    assert "weight_map" in refusal(source)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_shard_that_is_cut_off(source: Path, keep: float) -> None:
    data = first_shard(source).read_bytes()
    first_shard(source).write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    assert "pytorch_model-00001-of-00003.bin: damaged or cut off" in refusal(source)


def test_a_shard_with_a_flipped_bit(source: Path) -> None:
    data = bytearray(first_shard(source).read_bytes())
    data[len(data) // 2] ^= 1
    first_shard(source).write_bytes(data)
    assert "checksum" in refusal(source)


def test_a_safetensors_shard_that_is_cut_off(source: Path) -> None:
    tensors = torch.load(first_shard(source), weights_only=True)
    for path in source.glob("*.bin*"):
        path.unlink()
    path = source / "model.safetensors"
    write_shard(path, tensors)
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors: damaged or cut off" in refusal(source)


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00003.bin", "tokenizer.model"])
def test_a_git_lfs_pointer(source: Path, name: str) -> None:
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert f"{name}: is a Git LFS pointer" in refusal(source)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.target, "executed")


def test_a_malicious_pickle_is_not_executed(source: Path) -> None:
    target = source / "executed"
    torch.save({"transformer.output_layer.weight": Malicious(target)}, first_shard(source))
    assert "holds objects other than tensors" in refusal(source)
    assert not target.exists()


def test_a_shard_that_is_no_table(source: Path) -> None:
    torch.save([torch.zeros(2)], first_shard(source))
    assert "no plain table of tensors" in refusal(source)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("transformer.prefix_encoder.embedding.weight", "a P-tuning prefix encoder"),
        (LAYER + "mlp.dense_h_to_4h.weight_scale", "quantized weights"),
        ("transformer.surplus", "1 unknown keys, such as transformer.surplus"),
    ],
)
@pytest.mark.parametrize("with_index", [True, False])
def test_a_key_too_many(source: Path, key: str, found: str, *, with_index: bool) -> None:
    change_shard(source, lambda tensors: tensors.update({key: torch.zeros(2)}), with_index=with_index)
    assert found in refusal(source)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_key_too_few(source: Path, *, with_index: bool) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[LAYER + "input_layernorm.weight"]

    change_shard(source, change, with_index=with_index)
    assert f"1 keys missing, such as {LAYER}input_layernorm.weight" in refusal(source)


def test_a_key_in_two_shards(source: Path) -> None:
    key = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"  # belongs into the last shard
    change_shard(source, lambda tensors: tensors.update({key: torch.zeros(32, 48).half()}), with_index=False)
    assert "is in another shard as well" in refusal(source)


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(33).half(), "has the shape (33,), but config.json asks for (32,)"),
        (torch.zeros(32, dtype=torch.int8), "is torch.int8, a quantized checkpoint"),
        (torch.zeros(32), "weights of several dtypes"),
    ],
)
def test_a_tensor_that_does_not_fit(source: Path, tensor: torch.Tensor, found: str) -> None:
    change_shard(source, lambda tensors: tensors.update({LAYER + "input_layernorm.weight": tensor}))
    assert found in refusal(source)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_type": "unigram"}, "is not a BPE model"),
        ({"byte_fallback": False}, "has no byte fallback"),
        ({"add_dummy_prefix": False}, "adds no space before a text"),
        ({"remove_extra_whitespaces": True}, "removes repeated spaces"),
        ({"normalization_rule_name": "nmt_nfkc"}, "rewrites characters"),
        ({"user_defined_symbols": ["<n>"]}, "has user-defined or unused pieces"),
        ({"unk_id": 3, "bos_id": 0, "eos_id": 1, "pad_id": 2}, "does not start with <unk>, <s>, </s>"),
    ],
)
def test_other_sentencepiece_models(source: Path, changes: dict[str, Any], found: str) -> None:
    (source / "tokenizer.model").write_bytes(train_sentencepiece(**changes))
    assert found in refusal(source)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\x05abc"])
def test_a_broken_sentencepiece_model(source: Path, content: bytes) -> None:
    (source / "tokenizer.model").write_bytes(content)
    assert "not a whole SentencePiece model" in refusal(source)


def test_a_sentencepiece_model_that_is_cut_off(source: Path) -> None:
    path = source / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-20])
    assert "tokenizer.model" in refusal(source)
