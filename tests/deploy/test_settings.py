"""Settings: the order of their sources, and one line for what cannot be used."""

import json
from pathlib import Path

import pytest

from deploy.errors import ConfigError
from deploy.settings import flat, read_settings
from tests.deploy.conftest import Account


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('name = "from-file"\nregion = "eu-west-1"\n[chat]\ninstance_type = "ml.g6.xlarge"\n')
    return path


def test_flags_win_over_the_environment_and_that_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_REGION", "eu-central-1")
    monkeypatch.setenv("DEPLOY_CHAT__INSTANCE_COUNT", "2")
    settings = read_settings(file, ['chat.environment={"A": "b"}', "chat.image=stock"], name="from-flag")
    assert (settings.name, settings.region) == ("from-flag", "eu-central-1")
    assert settings.chat.instance_type == "ml.g6.xlarge"
    assert (settings.chat.instance_count, settings.chat.image) == (2, "stock")
    assert settings.chat.environment == {"A": "b"}


def test_deploy_toml_in_the_working_folder_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.rename(file.with_name("deploy.toml"))
    monkeypatch.chdir(file.parent)
    assert read_settings(None, []).name == "from-file"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("name=Upper", "setting name: String should match pattern"),
        ("name=x", "setting name: String should have at least 2 characters"),
        (f"tags={json.dumps(dict.fromkeys('abcdefghij', 'x'))}", "Dictionary should have at most 9 items"),
        ('tags={"AWS:x": "y"}', "setting tags"),
        ("chat.instance_type=g5", "setting chat.instance_type"),
        ("chat.colour=red", "setting chat.colour: Extra inputs are not permitted"),
        ("chat.startup_seconds=5", "setting chat.startup_seconds"),
        ('chat.autoscaling={"min": 3, "max": 2}', "max (2) is below min (3)"),
        ("chat.packaged=true", "needs image = 'stock'"),
        ("chat", "not KEY=VALUE"),
        ("chat.environment={", "not JSON"),
        ("role_arn=me", "setting role_arn"),
        ("denoiser.model_data=s3:/bucket/prefix", "setting denoiser.model_data"),
        ("weights.model=~nosuch/x", "setting weights.model"),
        ("denoiser.encoder=~nosuch/x", "setting denoiser.encoder"),
    ],
)
def test_what_cannot_be_used_is_named(flag: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"\A[^\n]+\Z") as caught:
        read_settings(None, [flag])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("DEPLOY_IMAGE__BUILD_ARGS__PIP_INDEX_URL", "--set image.build_args.PIP_INDEX_URL=VALUE"),
        ("DEPLOY_CHAT__ENVIRONMENT__CHAT_MAX_RUNNING", """DEPLOY_CHAT__ENVIRONMENT='{"CHAT_MAX_RUNNING": "VALUE"}'"""),
        ("DEPLOY_TAGS__Team", """DEPLOY_TAGS='{"Team": "VALUE"}'"""),
    ],
)
def test_a_variable_that_would_lose_capitals_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv("DEPLOY_TAGS__team", "nlp")
    assert read_settings(None, []).tags == {"team": "nlp"}
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigError, match=variable) as caught:
        read_settings(None, [])
    assert said in str(caught.value)


def test_a_file_that_is_missing_or_no_toml_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_settings(tmp_path / "missing.toml", [])
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("name: x")
    with pytest.raises(ConfigError, match=r"wrong\.toml: not TOML"):
        read_settings(wrong, [])
    wrong.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"wrong\.toml: not TOML"):
        read_settings(wrong, [])
    with pytest.raises(ConfigError, match="/proc/self/mem cannot be read: Input/output error"):
        read_settings(Path("/proc/self/mem"), [])  # which root cannot read either


@pytest.mark.parametrize("variable", ["DEPLOY_CHAT", "DEPLOY_TAGS"])
def test_a_table_in_a_variable_is_json(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "a=b")
    with pytest.raises(ConfigError, match="a whole table is JSON"):
        read_settings(None, [])


def test_every_setting_can_be_given_back_as_a_flag() -> None:
    settings = read_settings(None, [])
    texts = {key: value for key, value in flat(settings).items() if isinstance(value, (str, int, float))}
    again = read_settings(None, [f"{key}={value}" for key, value in texts.items()])
    assert again.model_dump() == settings.model_dump()


def test_config_show_prints_settings_and_names(account: Account) -> None:
    shown = account.deploy("config", "show", "--json").json
    assert shown["chat.instance_type"] == "ml.g4dn.2xlarge"
    assert shown["weights.revision"] == "b259b27320263629b0afccef134c54028233673d"
    assert shown["bucket"] == "djl-container-123456789012-us-east-1"
    assert shown["endpoints"] == ["djl-container-chat", "djl-container-denoiser"]
