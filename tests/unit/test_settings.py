"""Settings: read once, all faults at once, secrets never printed."""

from __future__ import annotations

import ipaddress
import pickle
from pathlib import Path

import pytest

from fhirserver.settings import Secret, Settings, SettingsError, folder


def test_without_any_variable_the_defaults_hold() -> None:
    settings = Settings.from_env({})

    assert (settings.data, settings.host, settings.port) == (Path("var"), "127.0.0.1", 8080)
    assert not settings.mongo_url


def test_variables_are_read_with_their_types() -> None:
    settings = Settings.from_env(
        {
            "FHIRSERVER_PORT": "9000",
            "FHIRSERVER_WEBHOOK_ALLOW": "10.0.0.0/8, ::1/128",
            "FHIRSERVER_MONGO_CACHE_GB": "1.5",
            "HOME": "/",
        }
    )

    assert settings.port == 9000
    assert settings.webhook_allow == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    assert settings.mongo_cache_gb == 1.5


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FHIRSERVER_PORT", "abc"),
        ("FHIRSERVER_PORT", "0"),
        ("FHIRSERVER_PORT", "65536"),
        ("FHIRSERVER_PORT", "-1"),
        ("FHIRSERVER_PORT", "²"),
        ("FHIRSERVER_PORT", "9" * 5000),
        ("FHIRSERVER_MONGO_CACHE_GB", "nan"),
        ("FHIRSERVER_MONGO_CACHE_GB", "0.1"),
        ("FHIRSERVER_PUBLIC_URL", "ftp://example.org"),
        ("FHIRSERVER_PUBLIC_URL", "https:example.org"),
        ("FHIRSERVER_MONGO_URL", "postgres://localhost"),
        ("FHIRSERVER_WEBHOOK_ALLOW", "10.0.0.1/8"),
        ("FHIRSERVER_LOG_FORMAT", "xml"),
        ("FHIRSERVER_MASTER_KEY", "short"),
        ("FHIRSERVER_PROT", "8080"),
    ],
)
def test_a_value_that_cannot_be_and_an_unknown_variable_are_refused(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({variable: value})

    assert [variable in fault for fault in refused.value.faults] == [True]


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(
            {
                "FHIRSERVER_PORT": "abc",
                "FHIRSERVER_NOPE": "1",
                "FHIRSERVER_PAGE_SIZE": "500",
                "FHIRSERVER_PAGE_SIZE_MAX": "400",
            }
        )

    assert len(refused.value.faults) == 3


def test_a_wrong_secret_is_not_repeated_in_the_fault() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"FHIRSERVER_MASTER_KEY": "hunter2", "FHIRSERVER_MONGO_URL": "http://me:hunter2@host"})

    assert "hunter2" not in str(refused.value)


def test_an_empty_variable_is_one_that_is_not_given() -> None:
    assert Settings.from_env({"FHIRSERVER_PORT": "", "FHIRSERVER_MONGO_URL": " "}) == Settings.from_env({})


def test_an_empty_list_is_a_list() -> None:
    assert Settings.from_env({"FHIRSERVER_CORS_ORIGINS": ""}).cors_origins == ()


def test_an_option_counts_more_than_its_variable() -> None:
    assert Settings.from_env({"FHIRSERVER_PORT": "9000"}, port=9001, data=None).port == 9001


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8080"), ("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080")],
)
def test_the_public_url_is_by_default_where_the_server_listens(host: str, url: str) -> None:
    assert Settings.from_env({"FHIRSERVER_HOST": host}).public_url == url


def test_a_public_url_loses_its_last_slash() -> None:
    assert Settings.from_env({"FHIRSERVER_PUBLIC_URL": "https://x.example/"}).public_url == "https://x.example"


def test_settings_pass_through_the_environment_of_a_child_unchanged() -> None:
    settings = Settings.from_env(
        {"FHIRSERVER_MASTER_KEY": "k" * 32, "FHIRSERVER_WEBHOOK_ALLOW": "10.0.0.0/8", "FHIRSERVER_CORS_ORIGINS": ""}
    )

    assert Settings.from_env(settings.variables()) == settings


def test_secrets_are_never_printed() -> None:
    settings = Settings.from_env({"FHIRSERVER_MASTER_KEY": "k" * 32, "FHIRSERVER_REDIS_URL": "redis://:hunter2@host"})
    printed = f"{settings} {settings!r} {settings.rows()} {settings.master_key} {settings.redis_url!r}"

    assert "hunter2" not in printed
    assert "kkkk" not in printed
    assert settings.redis_url.reveal() == "redis://:hunter2@host"


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("hunter2"))


@pytest.mark.parametrize("name", ["profiles", "capability", "mappings"])
def test_the_folders_of_data_are_found(name: str) -> None:
    assert folder(name).is_dir()


def test_a_key_of_the_listener_needs_a_certificate(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("")
    with pytest.raises(SettingsError, match="MLLP_CERTIFICATE is needed"):
        Settings.from_env({"FHIRSERVER_MLLP_KEY": str(key)})
    with pytest.raises(SettingsError, match=r"MLLP_CERTIFICATE.*is not a file"):
        Settings.from_env({"FHIRSERVER_MLLP_CERTIFICATE": str(tmp_path / "none.pem")})
