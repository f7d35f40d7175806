"""The recipe: one YAML file with the settings of every stage, each documented where it is declared."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.config import DataLoaderConfig, PrepareConfig
from data_prep.credentials import check_no_credentials
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from pipelines.config.evaluation import CompareConfig, EvaluateConfig
from pipelines.config.pretraining import CacheConfig, PretrainConfig


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


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings that determine the result of a run."""

    name: str
    """Name of the run, and of its folder below ``runs``."""
    base: BackboneConfig
    """Base model."""
    data: PrepareConfig
    """Training images, and how ``e4t prepare`` makes shards of them."""
    conditioning: ConditioningConfig
    """Prompts of the concept."""
    runs: str = "runs"
    """Folder of all runs. It also holds the MLflow database, unless MLFLOW_TRACKING_URI is set."""
    seed: int = 0
    """Seed of the data order, noise, timesteps and prompts of pre-training, and of weight initialization."""
    stream: DataLoaderConfig = field(default_factory=DataLoaderConfig)
    """How pre-training reads the shards."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Precomputed features (``e4t cache``)."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Pre-training."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """Inference-time tuning on a concept; becomes the default of the release."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """Sampling of images; becomes the default of the release."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Concepts, prompts and metrics of ``e4t evaluate`` and ``e4t compare``."""
    compare: CompareConfig = field(default_factory=CompareConfig)
    """Systems of ``e4t compare``."""
    publish: ReleaseConfig = field(default_factory=ReleaseConfig)
    """Requirements and license of ``e4t release``."""

    def __post_init__(self) -> None:
        check_no_credentials(self.to_dict())

    @property
    def folder(self) -> Path:
        """Run folder, ``<runs>/<name>``."""
        return Path(self.runs) / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as nested dicts and lists, as it is written to YAML."""
        plain: dict[str, Any] = _tuples_to_lists(asdict(self))
        return plain


def _tuples_to_lists(value: Any) -> Any:  # noqa: ANN401 - plain data of any shape
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return [_tuples_to_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
