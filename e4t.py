"""Public interface: ``from e4t import E4TPipeline``. ``python -m e4t`` runs the ``e4t`` command."""

from typing import TYPE_CHECKING, Any

from e4t_errors import ConfigError

if TYPE_CHECKING:
    from encoder.concepts.concept import Concept
    from encoder.pipeline import E4TPipeline

__all__ = ["Concept", "ConfigError", "E4TPipeline"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - imported on first use, so that the command starts fast
    if name == "Concept":
        from encoder.concepts.concept import Concept

        return Concept
    if name == "E4TPipeline":
        from encoder.pipeline import E4TPipeline

        return E4TPipeline
    raise AttributeError(f"module 'e4t' has no attribute {name!r}")


if __name__ == "__main__":
    import sys

    from pipelines.cli.main import main

    sys.exit(main())
