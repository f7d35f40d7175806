"""Redact passwords and tokens in URLs, and refuse them in settings, because recipes are stored and shared."""

import re
from collections.abc import Mapping
from typing import Any

from data_prep.config_dict import flatten
from e4t_errors import ConfigError

_USER_PASSWORD = re.compile(r"(?<=://)[^/\s@:?#\[]*:(?!\d+(?:[/?#\s]|$)|:[\w.+-]+://)\S*@")
"""``key:secret@`` up to the last @ of the word, because secrets may contain slashes. Ports and the next URL of a chain
(``zip://a::https://b``) do not match."""
_USER_TOKEN = re.compile(r"(?<=\bhttp://)[^/\s@?#]+@|(?<=\bhttps://)[^/\s@?#]+@")
"""In http(s) URLs a user name alone is a token; in others (``abfs://container@account``) it is not."""
_SIGNED_QUERY = re.compile(
    r"(?<=[?&])((?:x-amz-|x-goog-)?(?:signature|security-token|credential)|sig|token|access_token|api_key|password)"
    r"=[^&#\s'\"]+",
    re.IGNORECASE,
)
"""Query parameters with which the large object stores sign URLs."""


def redact(text: str) -> str:
    """Replace every password, token and signature in the URLs of a text by ``***``."""
    return _SIGNED_QUERY.sub(r"\1=***", _USER_TOKEN.sub("***@", _USER_PASSWORD.sub("***@", text)))


def check_no_credentials(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ConfigError if a URL in the settings holds a secret; the message names the setting, not the secret."""
    for name, value in flatten(settings, prefix).items():
        texts = value if isinstance(value, (list, tuple)) else (name, value)
        for text in texts:
            if isinstance(text, str) and redact(text) != text:
                raise ConfigError(
                    f"{redact(name)} holds a password or token ({redact(text)}); recipes are stored and shared: "
                    "remove it from the URL and give it to the store's client through the environment"
                )
