"""The service's settings, read once from the environment (and nowhere else)."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from denoiser.errors import SettingsError
from denoiser.model import FINE_TUNING_STEPS
from denoiser.model.checkpoint import BUNDLED_CHECKPOINT


def _key(given: SecretStr) -> SecretStr:
    key = given.get_secret_value().strip()  # as the header's value is
    if not key:
        raise ValueError("holds nothing but space; set a key, or leave it empty to need none")
    return SecretStr(key)


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals; an empty one counts as not set."""

    model_config = SettingsConfigDict(frozen=True, protected_namespaces=(), env_ignore_empty=True)

    model_path: Path = BUNDLED_CHECKPOINT
    encoder_path: Path | None = None
    """Folder of all-MiniLM-L6-v2; where it is not set, the one in its Python package."""
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    max_rows: int = Field(default=4096, ge=1)
    max_texts: int = Field(default=2048, ge=1)
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    queue_size: int = Field(default=128, ge=1)
    denoiser_cache: Path = Path.home() / ".cache" / "denoiser"
    denoiser_data: Path = Path.home() / ".local" / "share" / "denoiser"
    max_upload_bytes: int = Field(default=50 * 1024 * 1024, ge=1)
    ngrok_authtoken: SecretStr | None = None
    train_steps: int = Field(default=FINE_TUNING_STEPS, ge=1)

    @property
    def required_key(self) -> str | None:
        """The bearer token requests must carry."""
        return self.api_key.get_secret_value() if self.api_key else None


def read_settings() -> Settings:
    """The settings in the environment. Raises SettingsError naming the variable, its value and what is allowed."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(step) for step in first["loc"]).upper()
        raise SettingsError(f"{name}={first['input']} cannot be used: {first['msg'].lower()}") from error
