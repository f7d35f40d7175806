"""What a release must reach, and what its card says beside what is known anyway."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """Of ``e4t release``."""

    min_scores: dict[str, float] = field(default_factory=dict)
    """The least that scores of the evaluation must reach (truth, likeness, recognised, ...), as means after the last of
    ``evaluate.steps``: what falls below is not released, nor what has not been evaluated."""
    license: str = "apache-2.0"
    """Of the weights, as the hub names it."""
    data_statement: str = ""
    """A sentence or two for the card: where the training pictures come from, and on what terms."""
