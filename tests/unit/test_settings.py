"""Settings: what an operator may write, what stops the start, and that the documentation is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from stt.settings import Settings, SettingsError, load

NO_DOTENV = Path("/nonexistent/.env")
CONFIGURATION = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def read(**environ: str) -> Settings:
    return load({f"STT_{name}": value for name, value in environ.items()}, NO_DOTENV)


def shown(default: Any) -> str:
    if isinstance(default, tuple):
        return f"`{', '.join(default)}`"
    if isinstance(default, bool):
        return f"`{int(default)}`"
    return "" if default in ("", None) else f"`{default}`"


def row(name: str, field: FieldInfo) -> str:
    return f"| `STT_{name.upper()}` | {shown(field.default)} | {field.description} |"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_documentation_has_every_setting_with_its_default_and_meaning(name: str) -> None:
    expected = row(name, Settings.model_fields[name])
    assert expected in CONFIGURATION.read_text(encoding="utf-8").splitlines()


def test_documentation_names_no_setting_that_is_not_there() -> None:
    lines = CONFIGURATION.read_text(encoding="utf-8").splitlines()
    documented = {line.split("`")[1] for line in lines if line.startswith("| `STT_")}
    assert documented == {f"STT_{name.upper()}" for name in Settings.model_fields}


def test_without_any_environment_it_listens_on_loopback_only() -> None:
    settings = read()
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 8000, "base")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("WORKERS", "0"),
        ("THREADS", "many"),
        ("MAX_UPLOAD_BYTES", "-1"),
        ("DEVICE", "tpu"),
        ("COMPUTE_TYPE", "float128"),
        ("ALIGN", "maybe"),
        ("DATABASE_URL", "mysql://localhost/stt"),
        ("REDIS_URL", "localhost:6379"),
        ("STORAGE_URL", "relative/folder"),
        ("SERVER", "localhost:8000"),
        ("LEASE_SECONDS", "0"),
        ("MODEL", ""),
        ("LOG_LEVEL", "LOUD"),
        ("AUTH", "maybe"),
        ("LOG_FORMAT", "xml"),
        ("METRICS_PORT", "0"),
        ("SENTRY_DSN", "ftp://key@sentry/1"),
        ("SENTRY_DSN", "https://sentry.example/1"),
        ("SENTRY_DSN", "https://key@sentry.example/project"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"STT_{name}: ")
    assert "\n" not in message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_an_open_house_is_refused_until_it_is_asked_for(host: str) -> None:
    with pytest.raises(SettingsError, match=r"STT_HOST.*STT_ALLOW_OPEN"):
        read(HOST=host)
    assert read(HOST=host, ALLOW_OPEN="1").host == host


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://stt:hidden@db/stt\n", encoding="utf-8")
    assert read(DATABASE_URL_FILE=str(secret)).database_url == "postgresql://stt:hidden@db/stt"


def test_an_empty_setting_does_not_hide_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hidden", encoding="utf-8")
    assert read(HF_TOKEN="", HF_TOKEN_FILE=str(secret)).hf_token == "hidden"
    assert read(HF_TOKEN="given", HF_TOKEN_FILE=str(secret)).hf_token == "given"


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"STT_HF_TOKEN_FILE: cannot read .*nothing"):
        read(HF_TOKEN_FILE=str(tmp_path / "nothing"))


def test_the_environment_wins_over_dotenv(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("STT_PORT=9000\nSTT_MODEL=small\n", encoding="utf-8")
    settings = load({"STT_PORT": "9001"}, dotenv)
    assert (settings.port, settings.model) == (9001, "small")


def test_the_data_folder_does_not_move_with_a_childs_working_folder() -> None:
    assert read(DATA_DIR="somewhere").data_dir == Path.cwd() / "somewhere"


def test_lists_are_separated_by_commas() -> None:
    assert read(ALLOWED_HOSTS="stt.example, localhost,").allowed_hosts == (
        "stt.example",
        "localhost",
    )


def test_the_default_model_may_always_be_named() -> None:
    assert read(MODEL="large-v3", MODELS="base,small").allowed_models == (
        "large-v3",
        "base",
        "small",
    )


def test_a_token_is_not_shown() -> None:
    assert "hidden" not in repr(read(HF_TOKEN="hidden"))
