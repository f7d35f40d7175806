"""The recipe: one YAML file, every stage's settings, each explained where it is declared."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.config import DataLoaderConfig, PrepareConfig
from data_prep.credentials import check_no_credentials
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from pipelines.config.evaluation import CompareConfig, EvaluateConfig
from pipelines.config.pretraining import CacheConfig, PretrainConfig
from pipelines.config.publishing import ReleaseConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a run makes."""

    name: str
    """The run's name, its folder under ``runs``."""
    base: BackboneConfig
    data: PrepareConfig
    conditioning: ConditioningConfig
    runs: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    stream: DataLoaderConfig = field(default_factory=DataLoaderConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    publish: ReleaseConfig = field(default_factory=ReleaseConfig)

    def __post_init__(self) -> None:
        check_no_credentials(self.to_dict())

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name

    def to_dict(self) -> dict[str, Any]:
        """As plain data, tuples as lists."""
        plain: dict[str, Any] = _tuples_to_lists(asdict(self))
        return plain


def _tuples_to_lists(value: Any) -> Any:  # noqa: ANN401 - plain data of any shape
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return [_tuples_to_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
