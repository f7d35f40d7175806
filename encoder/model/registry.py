"""The kinds of domain encoder that a release can hold.

Every kind computes its own inputs with ``image_features`` and ``unet_features``, so callers need not tell them apart.
"""

from typing import Any

from encoder.errors import ModelError
from encoder.legacy_keys import ENCODER_CONFIG_KEYS, rename_keys
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.patch_encoder import PatchEncoder, PatchEncoderConfig

AnyDomainEncoder = DomainEncoder | PatchEncoder
PATCHES = "patches"
"""Value of ``kind`` in the configuration of a ``PatchEncoder``. A ``DomainEncoder`` has no ``kind``."""


def build_encoder(*, kind: str | None = None, **shape: Any) -> AnyDomainEncoder:  # noqa: ANN401 - fields of the configuration class
    """Build an encoder with initial weights from the fields of ``domain_encoder/config.json``.

    Keys of older releases are accepted. Raises ModelError for an unknown kind.
    """
    shape = rename_keys(shape, ENCODER_CONFIG_KEYS)
    if kind == PATCHES:
        return PatchEncoder(PatchEncoderConfig(**shape))
    if kind is not None:
        raise ModelError(f"the release has a domain encoder of the unknown kind {kind!r}; upgrade e4t")
    return DomainEncoder(DomainEncoderConfig(**shape))
