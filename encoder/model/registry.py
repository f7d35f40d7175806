"""The kinds of domain encoder that a release can hold. Each says itself what it looks at."""

from typing import Any

from encoder.errors import ModelError
from encoder.legacy_keys import ENCODER_CONFIG_KEYS, rename_keys
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.patch_encoder import PatchEncoder, PatchEncoderConfig

AnyDomainEncoder = DomainEncoder | PatchEncoder
PATCHES = "patches"
"""What the configuration of an encoder calls it that looks at patches; those of the method name no kind."""


def build_encoder(*, kind: str | None = None, **shape: Any) -> AnyDomainEncoder:  # noqa: ANN401 - fields of the kind's configuration
    """An encoder without its weights, of the shape that a release's configuration gives.

    Raises ModelError if it is of a kind that this e4t does not know.
    """
    shape = rename_keys(shape, ENCODER_CONFIG_KEYS)
    if kind == PATCHES:
        return PatchEncoder(PatchEncoderConfig(**shape))
    if kind is not None:
        raise ModelError(f"the release's encoder is of kind {kind!r}, which this e4t does not know; upgrade e4t")
    return DomainEncoder(DomainEncoderConfig(**shape))
