"""All settings of the chat service, read once from the environment (and command line) into one frozen object.

Nothing else in the package reads settings from the environment.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from chatglm2.errors import SetupError

DEFAULT_CACHE_TOKENS = 32768
DEFAULT_BATCH_TOKENS = 1024

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _executor(name: str) -> str:
    parts = name.split(".")
    if name not in {"mp", "ray"} and (len(parts) == 1 or not all(part.isidentifier() for part in parts)):
        raise ValueError("choose mp, ray, or the full name of a vLLM Executor class")
    return name


def _key(given: SecretStr) -> SecretStr:
    key = given.get_secret_value().strip()  # as the header's value is
    if not key:
        raise ValueError("holds nothing but space; set a key, or leave it empty to need none")
    return SecretStr(key)


class Settings(BaseSettings):
    """Environment variables are `CHAT_` and the field's name in capitals, but where another name is given."""

    model_config = SettingsConfigDict(
        env_prefix="CHAT_", env_ignore_empty=True, frozen=True, populate_by_name=True, extra="forbid"
    )

    model: str = Field("", validation_alias=AliasChoices("HF_MODEL_ID", "CHAT_MODEL"))
    """A folder, a hub id or an `s3://` prefix; empty means what is in `mounted_model`, else the embedded SmolLM2."""
    mounted_model: Path = Path("/opt/ml/model")
    """Where SageMaker puts the files of a model."""
    revision: str | None = Field(None, validation_alias=AliasChoices("HF_REVISION", "CHAT_REVISION"))
    """Commit, tag or branch of a hub id."""
    served_model_name: str = ""
    """What OpenAI clients may call the model, beside `chatglm2`; empty means the name in `model`."""
    dtype: Dtype = "auto"
    """`auto` is float16 on CUDA and float32 on a CPU."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """`auto` is the GPU where there is one."""
    cache_dir: Path = Path.home() / ".cache" / "djl-container"
    """Converted models are kept here."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    metrics_port: int | None = Field(None, ge=1, le=65535)
    """When set, `GET /metrics` is served on this port of `host`, for Prometheus."""
    api_key: Annotated[SecretStr, AfterValidator(_key)] | None = Field(
        None, validation_alias=AliasChoices("API_KEY", "CHAT_API_KEY")
    )
    """When set, every route but `/ping` asks for `Authorization: Bearer ...`."""
    djl_serving_home: Path | None = Field(
        None, validation_alias=AliasChoices("DJL_SERVING_HOME", "CHAT_DJL_SERVING_HOME")
    )
    """Unpacked release of DJL Serving, or its archive; where it is not set the official release is fetched."""
    control_socket: Path | None = None
    """Unix socket on which whoever started DJL Serving asks the worker to finish its requests."""

    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1)
    max_new_tokens: int = Field(4096, ge=1)
    """Most new tokens one request may ask for."""
    max_running: int = Field(64, ge=1)
    """Requests in the running batch at once."""
    max_waiting: int = Field(256, ge=0)
    """Requests waiting for a place in it; one more is refused with 429."""
    deadline_seconds: float = Field(300.0, gt=0, allow_inf_nan=False)
    """Longest a request may take."""
    drain_seconds: float = Field(24.0, ge=0, allow_inf_nan=False)
    """How long running requests may still take after SIGTERM. SageMaker and Docker kill 30 seconds after it."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """`auto` is vLLM where it is installed and the model runs on a GPU."""
    cache_tokens: int | None = Field(None, ge=64)
    """Tokens that the key-value cache holds, all requests together; also bounds prompt and answer of one. None is what
    fits into `gpu_memory` with vLLM on a GPU, else `DEFAULT_CACHE_TOKENS`."""
    batch_tokens: int | None = Field(None, ge=16)
    """Tokens that one forward pass takes, prompts and answers together; None is vLLM's own choice,
    else `DEFAULT_BATCH_TOKENS`."""
    gpu_memory: float = Field(0.9, gt=0, le=1)
    """Share of each GPU's memory that vLLM takes for weights and cache."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that vLLM splits each layer over."""
    pipeline_parallel: int = Field(1, ge=1)
    """Groups of GPUs that vLLM spreads the layers over, on one machine or several."""
    executor: Annotated[str, AfterValidator(_executor)] = "mp"
    """How vLLM runs the model: `mp`, in processes of this machine; `ray`, on the machines of a Ray cluster; or the full
    name of a vLLM `Executor` class."""
    eager: bool = False
    """vLLM starts without compiling: minutes sooner, but slower afterwards."""

    @property
    def served_name(self) -> str:
        """The model's own name: of a folder the last part of its path, of `mounted_model` `chatglm2`."""
        name = (self.served_model_name or self.model).rstrip("/")
        if name == str(self.mounted_model) or (not name and (self.mounted_model / "config.json").is_file()):
            return "chatglm2"
        return name.rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) else name or "smollm2-135m-instruct"

    @property
    def model_names(self) -> list[str]:
        """All that OpenAI clients may call the model, in small letters."""
        name = self.served_name.lower()
        return list(dict.fromkeys(["chatglm2", "chatglm2-6b", name.rsplit("/", 1)[-1], name]))


def read_settings(**given: Any) -> Settings:
    """The settings, of which those in `given` that are not None go before the environment. Raises SetupError."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        name = f"setting {field}" if field in given or field.isupper() else f"CHAT_{field.upper()}"
        raise SetupError(f"{name}: {first['msg']}, got {first['input']!r}") from None
