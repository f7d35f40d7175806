"""Passwords and tokens in URLs: never shown, and refused in settings, which are written down and handed on."""

import re
from collections.abc import Mapping
from typing import Any

from data_prep.config_diff import flatten
from e4t import ConfigError

_USER_PASSWORD = re.compile(r"(?<=://)[^/\s@:?#\[]*:(?!\d+(?:[/?#\s]|$)|:[\w.+-]+://)\S*@")
"""``key:secret@`` up to the last @ of the word, as secrets hold slashes; neither a port nor the next URL of a chain
(``zip://a::https://b``) is a secret."""
_USER_TOKEN = re.compile(r"(?<=\bhttp://)[^/\s@?#]+@|(?<=\bhttps://)[^/\s@?#]+@")
"""On the web a user alone is a token; elsewhere (``abfs://container@account``) it is none."""
_SIGNED_QUERY = re.compile(
    r"(?<=[?&])((?:x-amz-|x-goog-)?(?:signature|security-token|credential)|sig|token|access_token|api_key|password)"
    r"=[^&#\s'\"]+",
    re.IGNORECASE,
)
"""What signs a link, by the names that the large stores give it."""


def redact(text: str) -> str:
    """The text with ``***`` for every password, token and signature that is part of a URL."""
    return _SIGNED_QUERY.sub(r"\1=***", _USER_TOKEN.sub("***@", _USER_PASSWORD.sub("***@", text)))


def check_no_credentials(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ConfigError, which names the setting and not the secret, if a URL in settings holds a secret."""
    for name, value in flatten(settings, prefix).items():
        texts = value if isinstance(value, (list, tuple)) else (name, value)
        for text in texts:
            if isinstance(text, str) and redact(text) != text:
                raise ConfigError(
                    f"{redact(name)} holds a password or token ({redact(text)}); recipes are written down and handed "
                    "on: leave it out of the URL and put it where the store's client looks, in the environment"
                )
