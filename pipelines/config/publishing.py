"""Recipe section ``publish``: what a release must reach, and what its model card says."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """Requirements and license of ``e4t release``."""

    min_scores: dict[str, float] = field(default_factory=dict)
    """Minimum of each score (identity_similarity, reference_similarity, recognizer_similarity, ...) as its mean over
    concepts after the last of ``evaluate.steps``. `e4t release` refuses a checkpoint that is below one of them or that
    has not been evaluated. Empty to require nothing."""
    license: str = "apache-2.0"
    """License of the weights, as a license id of the Hugging Face Hub."""
    data_statement: str = ""
    """One or two sentences for the model card: where the training images come from, and on what terms."""
