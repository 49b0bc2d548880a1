"""The service's settings, read once from the environment (and nowhere else)."""

from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

BUNDLED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "default"


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, protected_namespaces=())

    model_path: Path = BUNDLED_CHECKPOINT
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    max_rows: int = Field(default=4096, ge=1)
    max_texts: int = Field(default=512, ge=1)
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    queue_size: int = Field(default=16, ge=1)
    denoiser_cache: Path = Path.home() / ".cache" / "denoiser"

    @cached_property
    def required_key(self) -> str | None:
        """The bearer token requests must carry; an empty API_KEY counts as none."""
        return (self.api_key.get_secret_value() or None) if self.api_key else None
