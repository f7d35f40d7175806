import re
from typing import Any

import pytest

from data_prep.config import DataLoaderConfig, FilterConfig, PrepareConfig, SourceConfig, SplitFractions
from e4t import ConfigError


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"source": ""}, "data.source"),
        ({"resolution": 0}, "data.resolution"),
        ({"shard_samples": 0}, "data.shard_samples"),
        ({"quality": 101}, "data.quality"),
        ({"format": "tiff"}, "data.format"),
        ({"format": "jpg", "lossless": True}, "data.lossless"),
        ({"resolution": 20_000}, "webp supports at most"),
        ({"caption_template": "a {thing}"}, "data.caption_template"),
        ({"caption_template": "a {"}, "data.caption_template"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changes: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"source": "in", "output": "out", "domain": "cat"}
    with pytest.raises(ConfigError) as caught:
        PrepareConfig(**settings | changes)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_shares_that_are_no_shares_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="their sum 1"):
        SplitFractions(train=shares[0], val=shares[1], test=shares[2])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pattern": "{person}/{picture}"}, "{identity}"),
        ({"pattern": "{identity}/{identity}"}, "a different name"),
        ({"pattern": "{identity}/{1}"}, "a different name"),
        ({"caption_suffix": "txt"}, "data.source_options.caption_suffix"),
    ],
)
def test_a_wrong_way_to_read_is_refused_by_its_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        SourceConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_pixels": 10**9}, "data.filters.max_pixels"),
        ({"min_side": 0}, "data.filters.min_side"),
        ({"max_aspect": 0.5}, "data.filters.max_aspect"),
        ({"max_hash_distance": 40}, "data.filters.max_hash_distance"),
        ({"filter_fn": "not a function"}, "package.module:function"),
        ({"scores": ("sharpness",)}, "'sharpness'"),
    ],
)
def test_a_wrong_choice_is_refused_by_its_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        FilterConfig(**changes)


def test_the_digest_follows_what_is_made_and_not_where() -> None:
    config = PrepareConfig(source="in", output="out", domain="cat")
    assert PrepareConfig(source="elsewhere", output="there", domain="cat").digest == config.digest
    assert PrepareConfig(source="in", output="out", domain="dog").digest != config.digest
    assert PrepareConfig(source="in", output="out", domain="cat", quality=94).digest != config.digest


@pytest.mark.parametrize("name", ["shuffle_window_shards", "prefetch", "cache_max_bytes", "timeout_seconds"])
def test_a_stream_setting_below_one_is_refused(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=f"stream.{name}"):
        DataLoaderConfig(**settings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_workers": -1}, "stream.num_workers is -1"),
        ({"retries": -1}, "stream.retries is -1"),
        ({"on_error": "ignore"}, "stream.on_error is 'ignore'; give raise or skip"),
        ({"mixture": {"other": 0.0}}, "stream.mixture: the weight of other is 0.0"),
    ],
)
def test_a_wrong_way_to_stream_is_refused_by_its_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        DataLoaderConfig(**changes)
