"""All settings of the deploy commands, read once from a TOML file, the environment and flags into one frozen object.

Flags win over the environment, the environment over the file, the file over the defaults.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from deploy.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_FILE = Path("deploy.toml")
ServiceName = Literal["chat", "denoiser"]
SERVICES: tuple[ServiceName, ...] = ("chat", "denoiser")
InstanceType = Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]
PREFIX = "DEPLOY_"
# Tables whose keys are the user's own, as variables of the environment.
OWN_NAMES = re.compile(
    rf"{PREFIX}(TAGS|IMAGE__BUILD_(?:ARGS|SECRETS)|(?:CHAT|DENOISER)__ENVIRONMENT)__(.+)", re.IGNORECASE
)


def _of_a_home(path: Any) -> Any:
    try:
        Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return path


LocalPath = Annotated[Path, AfterValidator(_of_a_home)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Weights(_Section):
    """Where the chat model comes from."""

    model: Annotated[str, AfterValidator(_of_a_home)] = "THUDM/chatglm2-6b"
    """A hub id, a local folder, or s3://bucket/prefix with a native checkpoint."""
    revision: str = "b259b27320263629b0afccef134c54028233673d"
    """Commit of a hub id; a branch or tag could change between two runs."""
    hub_endpoint: str = ""
    """Address of a mirror of the hub, where the hub itself cannot be reached; empty means HF_ENDPOINT or the hub."""
    cache_dir: LocalPath = Path.home() / ".cache" / "djl-container"
    """Converted weights are kept here."""
    part_mib: int = Field(64, ge=5, le=5120)
    """Size of one part of an upload."""
    parallel: int = Field(8, ge=1, le=64)
    """Parts under way at once."""


class Image(_Section):
    """The custom image."""

    repository: str = ""
    """ECR repository; empty means one named as the project, which the commands create and delete."""
    registry: str = ""
    """Registry to push to, as host:port; empty means the account's ECR."""
    tag: str = ""
    """Empty means a checksum of everything that goes into the image, so that a changed source is a new image."""
    context: LocalPath = ROOT
    """Folder with the Dockerfile."""
    requirements: Literal["vllm", "services"] = "vllm"
    """What the image holds: vLLM too, or only what runs on any machine, 4 GB less."""
    build_args: dict[str, str] = {}
    build_secrets: dict[str, LocalPath] = {}
    build_network: Literal["default", "host"] = "default"
    """`host` where a mirror or proxy listens on this machine itself."""

    @property
    def arguments(self) -> dict[str, str]:
        """All arguments of the build."""
        return {"REQUIREMENTS": self.requirements} | self.build_args


class Autoscaling(_Section):
    """How many instances, depending on the requests under way."""

    min: int = Field(1, ge=1)
    max: int = Field(ge=1)
    target: float = Field(5.0, gt=0)
    """Requests under way per instance that the policy aims at."""
    scale_in_seconds: int = Field(600, ge=0)
    scale_out_seconds: int = Field(60, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Autoscaling":
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Service(_Section):
    """One endpoint."""

    enabled: bool = True
    instance_type: InstanceType
    instance_count: int = Field(1, ge=1)
    ami: str = ""
    """SageMaker's InferenceAmiVersion; empty means what the image's CUDA needs."""
    environment: dict[str, str] = {}
    startup_seconds: int = Field(900, ge=60, le=3600)
    download_seconds: int = Field(1800, ge=60, le=3600)
    autoscaling: Autoscaling | None = None


class Chat(Service):
    """The chat endpoint."""

    instance_type: InstanceType = "ml.g5.2xlarge"
    image: Literal["custom", "stock"] = "custom"
    """`stock` is the DJL image of AWS, with the converted weights and no code of this project unless `packaged`."""
    stock_image: str = "djl-inference:0.36.0-lmi18.0.0-cu128"
    """repository:tag in the registry of AWS, or a whole image address."""
    packaged: bool = False
    """Give the stock image a model.tar.gz with this project's handler; the weights stay in their prefix."""

    @model_validator(mode="after")
    def _packaged_is_stock(self) -> "Chat":
        if self.packaged and self.image != "stock":
            raise ValueError("packaged = true needs image = 'stock'; the custom image has the handler inside")
        return self


class Denoiser(Service):
    """The denoiser endpoint."""

    instance_type: InstanceType = "ml.c5.xlarge"
    encoder: LocalPath | None = None
    """Folder of all-MiniLM-L6-v2; none means the embedded one."""
    checkpoint: LocalPath | None = None
    """Folder of a denoiser trained on the team's own text; none means the one in the image."""
    model_data: str = Field("", pattern=r"^(s3://[^/]+/.+)?$")
    """s3://bucket/prefix that holds `encoder/` already; empty means that the two above are sent."""


class Settings(BaseSettings):
    """Environment variables are `DEPLOY_` and the name in capitals, `__` between section and field."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", toml_file=DEFAULT_FILE
    )

    name: str = Field("djl-container", pattern=r"^[a-z0-9](-?[a-z0-9])*$", min_length=2, max_length=30)
    """Starts the name of everything that is created, and is the value of the tag by which it is found again."""
    region: str = ""
    profile: str = ""
    role_arn: str = Field("", pattern=r"^(arn:aws(-cn)?:iam::\d{12}:role/.+)?$")
    """The role SageMaker runs the endpoints with."""
    bucket: str = ""
    """An existing bucket; empty means one of the project's own, which the commands create and delete."""
    tags: dict[str, str] = Field({}, max_length=9)
    """An object in S3 has ten at most, and one is the project's."""
    poll_seconds: float = Field(15.0, gt=0)
    wait_seconds: float = Field(7200.0, gt=0)
    """Longest wait for an endpoint: more than SageMaker gives an update by default."""
    attempts: int = Field(8, ge=1)
    """Tries of one request when AWS throttles or the network fails."""
    weights: Weights = Weights()
    image: Image = Image()
    chat: Chat = Chat()
    denoiser: Denoiser = Denoiser()

    @field_validator("tags")
    @classmethod
    def _not_of_aws(cls, tags: dict[str, str]) -> dict[str, str]:
        if reserved := [key for key in tags if key.lower().startswith("aws:")]:
            raise ValueError(f"{reserved[0]}: tags that begin with aws: are AWS's own")
        return tags

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def service(self, name: ServiceName) -> Chat | Denoiser:
        """The settings of one endpoint."""
        return self.chat if name == "chat" else self.denoiser

    def enabled(self) -> list[ServiceName]:
        """The services to deploy."""
        return [name for name in SERVICES if self.service(name).enabled]


def read_settings(file: Path | None, flags: list[str], **given: str | None) -> Settings:
    """The settings of this run: `flags` are KEY=VALUE with dots between section and field.

    Raises ConfigError naming the setting, its value and what is allowed.
    """
    path = file or DEFAULT_FILE
    _refuse_capitals()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        if file and not file.is_file():
            raise ConfigError(f"--config {file}: no such file; write one (see README) or leave the option out")
        return FromFile(**_nested(flags, {key: value for key, value in given.items() if value}))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; change that, or name another file") from None
    except SettingsError as error:
        raise ConfigError(f"{error}; a whole table is JSON: {PREFIX}CHAT='{{\"enabled\": false}}'") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "settings"
        raise ConfigError(f"setting {where}: {first['msg']}, got {first['input']!r} {_source(path, where)}") from None


def _refuse_capitals() -> None:
    """Pydantic makes the names of variables lower case: an own name in capitals would become another one."""
    for variable in os.environ:
        own = OWN_NAMES.fullmatch(variable)
        if own and own[2] != own[2].lower():
            table, example = own[1].upper(), json.dumps({own[2]: "VALUE"})
            raise ConfigError(
                f"{variable}: capitals of {own[2]} would be lost; set {PREFIX}{table}='{example}' or "
                f"give --set {table.lower().replace('__', '.')}.{own[2]}=VALUE"
            )


def _nested(flags: list[str], values: dict[str, Any]) -> dict[str, Any]:
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {flag}: not KEY=VALUE; for instance --set chat.instance_type=ml.g4dn.2xlarge")
        *sections, field = key.strip().split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {flag}: {section} is no section")
        place[field] = _value(flag, text)
    return values


def _value(flag: str, text: str) -> Any:
    """A table or list is given as JSON, anything else as it is."""
    if not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--set {flag}: not JSON: {error}") from None


def _source(path: Path, where: str) -> str:
    return f"(from --set, {PREFIX}{where.upper().replace('.', '__')} or {path})"


def flat(settings: Settings) -> dict[str, Any]:
    """Every setting by its dotted name, as `--set` takes it."""
    return dict(_flat("", settings.model_dump(mode="json", exclude_none=True)))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
