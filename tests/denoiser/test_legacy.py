"""Checkpoints saved by PyTorch: autoencoders are read, whatever else is refused, and nothing in a file ever runs."""

import pickle
import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.ports import free_port
from denoiser.errors import CheckpointError
from denoiser.model import checkpoint
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.training import Recipe
from tests.servers import running


class Saved(nn.Module):
    """An autoencoder as one writes it: encoder and decoder, ReLU between the layers."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        middle = len(widths) // 2 + 1
        self.encoder, self.decoder = _stack(widths[:middle]), _stack(widths[middle - 1 :])[:-1]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.decoder(self.encoder(x))
        return found


def _stack(widths: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(*(m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())))


@pytest.mark.parametrize("widths", [(384, 128, 384), (384, 256, 128, 256, 384), (384, 96, 64, 32, 64, 96, 384)])
@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict"])
def test_an_autoencoder_gives_what_it_gave_when_it_was_saved(
    tmp_path: Path, clean: Embeddings, widths: tuple[int, ...], wrapper: str | None
) -> None:
    model, path = Saved(*widths), tmp_path / "old.pt"
    state = model.state_dict()
    torch.save({wrapper: state, "epoch": 3, "loss": 0.1} if wrapper else state, path)
    denoiser = Denoiser.from_checkpoint(*checkpoint.load(path))
    given = denoiser.denoise(clean, np.full(len(clean), 0.1), "reconstruct")
    np.testing.assert_allclose(given, model(torch.from_numpy(clean)).detach().numpy(), atol=1e-6)
    np.testing.assert_array_equal(denoiser.denoise(clean, np.zeros(len(clean)), "reconstruct"), clean)


@pytest.mark.parametrize(
    ("names", "widths"),
    [
        (("first", "second", "third", "fourth"), (384, 384, 384, 384, 384)),
        (("enc1", "enc2", "dec1", "dec2"), (384, 128, 384, 128, 384)),
        (("input", "middle", "hidden", "output"), (384, 256, 256, 256, 384)),
        (("enc", "dec"), (384, 128, 384)),
    ],
)
def test_layers_are_in_the_order_of_the_file(
    tmp_path: Path, clean: Embeddings, names: tuple[str, ...], widths: tuple[int, ...]
) -> None:
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    named = nn.ModuleDict(dict(zip(names, layers, strict=True)))
    torch.save({**named.state_dict(), "epoch": 3}, tmp_path / "old.pt")
    hidden = torch.from_numpy(clean)
    for layer in layers[:-1]:
        hidden = torch.relu(layer(hidden))
    given = Denoiser.load(tmp_path / "old.pt").denoise(clean, np.full(len(clean), 0.1), "reconstruct")
    np.testing.assert_allclose(given, layers[-1](hidden).detach().numpy(), atol=1e-6)


def test_layers_out_of_order_are_ordered_by_their_names(tmp_path: Path, clean: Embeddings) -> None:
    state = Saved(384, 256, 128, 256, 384).state_dict()
    torch.save(state, tmp_path / "old.pt")
    torch.save(dict(sorted(state.items())), tmp_path / "sorted.pt")
    old, by_name = (Denoiser.load(tmp_path / name).denoise(clean) for name in ("old.pt", "sorted.pt"))
    np.testing.assert_array_equal(by_name, old)


@pytest.mark.parametrize(
    "names", [("layers.0", "layers.1", "layers.2", "layers.10"), ("encoder.0", "encoder.2", "decoder.0", "decoder.2")]
)
def test_layers_of_one_width_are_ordered_by_their_names(
    tmp_path: Path, clean: Embeddings, names: tuple[str, ...]
) -> None:
    layers = {name: nn.Linear(384, 384).state_dict() for name in names}
    for file, order in (("made.pt", names), ("sorted.pt", sorted(names))):
        state = {f"{name}.{kind}": tensor for name in order for kind, tensor in layers[name].items()}
        torch.save(state, tmp_path / file)
    made, by_name = (Denoiser.load(tmp_path / name).denoise(clean[:20]) for name in ("made.pt", "sorted.pt"))
    np.testing.assert_array_equal(by_name, made)


def test_training_an_autoencoder_further_starts_from_the_bundled_checkpoint(
    tmp_path: Path, clean: Embeddings, denoiser: Denoiser
) -> None:
    torch.save(Saved(384, 8, 384).state_dict(), tmp_path / "old.pt")
    old = Denoiser.load(tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="an autoencoder cannot be written"):
        old.save(tmp_path / "folder")
    one = Recipe(steps=1)
    trained, expected = (d.trained(clean[:80], one).denoise(clean, np.full(len(clean), 0.1)) for d in (old, denoiser))
    np.testing.assert_array_equal(trained, expected)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def _malicious(path: Path) -> None:
    torch.save({"model_state_dict": Malicious(path.with_name("ran"))}, path)


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(path.with_name("ran"))))


def _state(path: Path, **tensors: Tensor) -> None:
    torch.save(OrderedDict({name.replace("__", "."): tensor for name, tensor in tensors.items()}), path)


REFUSED = {
    "malicious": (_malicious, "nothing in it was run"),
    "pickle": (_pickled, "nothing in it was run"),
    "whole model": (lambda path: torch.save(Saved(384, 8, 384), path), "nothing in it was run"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 40), "nothing in it was run"),
    "empty": (lambda path: path.write_bytes(b""), "nothing in it was run"),
    "list": (lambda path: torch.save([1, 2], path), "holds no state dict"),
    "no layer": (lambda path: torch.save({}, path), "holds no state dict"),
    "numbers": (lambda path: torch.save({"a.weight": 3}, path), "holds no state dict"),
    "width": (lambda path: torch.save(Saved(300, 8, 300).state_dict(), path), "from 384 to 384"),
    "broken chain": (
        lambda path: _state(
            path,
            encoder__0__weight=torch.zeros(8, 384),
            encoder__0__bias=torch.zeros(8),
            decoder__0__weight=torch.zeros(384, 9),
            decoder__0__bias=torch.zeros(384),
        ),
        "from 384 to 384",
    ),
    "no bias": (lambda path: _state(path, encoder__0__weight=torch.zeros(384, 384)), "lacks encoder.0.bias"),
    "convolution": (lambda path: _state(path, encoder__0__weight=torch.zeros(3, 3, 3)), "only stacks of Linear"),
    "batch norm": (
        lambda path: torch.save(nn.Sequential(nn.Linear(384, 384), nn.BatchNorm1d(384)).state_dict(), path),
        "only stacks of Linear",
    ),
    "nested": (
        lambda path: _state(
            path, a__weight=torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
        ),
        "no dense",
    ),
    "nothing between": (
        lambda path: _state(
            path,
            a__weight=torch.zeros(0, 384),
            a__bias=torch.zeros(0),
            b__weight=torch.zeros(384, 0),
            b__bias=torch.zeros(384),
        ),
        "no dense",
    ),
    "sparse": (lambda path: _state(path, a__weight=torch.eye(384).to_sparse(), a__bias=torch.zeros(384)), "no dense"),
    "without content": (
        lambda path: _state(path, a__weight=torch.zeros(384, 384, device="meta"), a__bias=torch.zeros(384)),
        "no dense",
    ),
    "float8 not finite": (
        lambda path: _state(path, a__weight=torch.full((384, 384), torch.nan).to(torch.float8_e4m3fn)),
        "no dense",
    ),
    "not finite": (
        lambda path: _state(path, a__0__weight=torch.full((384, 384), torch.nan), a__0__bias=torch.zeros(384)),
        "only stacks of Linear",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    write, complaint = REFUSED[kind]
    path = tmp_path / "old.pt"
    write(path)
    with pytest.raises(CheckpointError, match=complaint) as refusal:
        checkpoint.load(path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()


def test_the_service_serves_an_old_checkpoint(tmp_path: Path) -> None:
    torch.save({"model_state_dict": Saved(384, 32, 384).state_dict()}, tmp_path / "old.pt")
    env = {"MODEL_PATH": str(tmp_path / "old.pt"), "PORT": str(port := free_port()), "DENOISER_DATA": str(tmp_path)}
    with running([sys.executable, "-m", "denoiser", "serve"], tmp_path / "log", port, env) as server:
        reply = server.post("/denoise/text", {"texts": ["An old friend."], "noise_level": 0.1})
        assert reply.json()["shape"] == [1, 384]
        models = httpx.get(f"{server.url}/models", timeout=60).json()
        assert [m["model_id"] for m in models] == ["default"]
