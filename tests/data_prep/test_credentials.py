"""Secrets in URLs are redacted in messages and refused in settings."""

import pytest

from data_prep.config import PrepareConfig
from data_prep.credentials import check_no_credentials, redact
from e4t_errors import ConfigError


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("s3://AKIA:s3cr3t@bucket/a", "s3://***@bucket/a"),
        ("s3://AKIA:with/slash@bucket/a", "s3://***@bucket/a"),
        ("https://me:p@ss:word@host/a", "https://***@host/a"),
        ("https://ghp_token@host/a.git", "https://***@host/a.git"),
        ("zip://a.zip::https://me:pw@host/x.zip", "zip://a.zip::https://***@host/x.zip"),
        ("postgresql+psycopg2://me:pw@db:5432/mlflow", "postgresql+psycopg2://***@db:5432/mlflow"),
        ("API request to http://me:pw@host:5000/api failed", "API request to http://***@host:5000/api failed"),
        ("https://store/a.zip?sv=1&sig=abc%2F=&se=2", "https://store/a.zip?sv=1&sig=***&se=2"),
        ("https://b.s3.amazonaws.com/a?X-Amz-Credential=k&X-Amz-Signature=f", None),
        ("https://host/a?token=abc", "https://host/a?token=***"),
    ],
)
def test_a_secret_is_redacted(text: str, redacted: str | None) -> None:
    if redacted:
        assert redact(text) == redacted
    assert redact(text) != text
    with pytest.raises(ConfigError):
        check_no_credentials({"source": text})


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a@2x.png",
        "https://host:8080/a@2x.png",
        "http://[::1]:5000/a@b",
        "abfs://container@account.dfs.core.windows.net/a",
        "sqlite:////tmp/all runs/mlflow.db",
        "hf://datasets/owner/name@revision",
        "data/images/me@home:1.png",
        "https://host/a?id=5&tokens=3",
    ],
)
def test_urls_without_secrets_are_unchanged(url: str) -> None:
    assert redact(url) == url
    check_no_credentials({"source": url})


@pytest.mark.parametrize("setting", ["source", "output"])
def test_a_setting_with_a_password_is_refused_without_showing_it(setting: str) -> None:
    settings = {"source": "in", "output": "out", "domain": "cat"} | {setting: "s3://key:s3cr3t@bucket/a"}
    with pytest.raises(ConfigError, match=rf"data.{setting} .*s3://\*\*\*@bucket/a.*environment") as caught:
        PrepareConfig(**settings)
    assert "s3cr3t" not in str(caught.value)


def test_names_of_settings_and_lists_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="mixture"):
        check_no_credentials({"stream": {"mixture": {"s3://key:s3cr3t@bucket/a": 1.0}}})
    with pytest.raises(ConfigError, match="images"):
        check_no_credentials({"images": ["a", "https://me:pw@host/b"]})
