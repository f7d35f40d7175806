import re
from typing import Any

import pytest

from data_prep.config import DataLoaderConfig, FilterConfig, PrepareConfig, SourceConfig, SplitFractions
from e4t_errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ""}, "data.source"),
        ({"resolution": 0}, "data.resolution"),
        ({"shard_samples": 0}, "data.shard_samples"),
        ({"quality": 101}, "data.quality"),
        ({"format": "tiff"}, "data.format"),
        ({"format": "jpg", "lossless": True}, "data.lossless"),
        ({"resolution": 20_000}, "webp supports at most"),
        ({"caption_template": "a {thing}"}, "data.caption_template"),
        ({"caption_template": "a {concept}"}, "{concept}, which is now called {domain}"),
        ({"caption_template": "a {"}, "data.caption_template"),
    ],
)
def test_an_invalid_setting_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"source": "in", "output": "out", "domain": "cat"}
    with pytest.raises(ConfigError) as caught:
        PrepareConfig(**settings | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_invalid_split_fractions_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="their sum 1"):
        SplitFractions(train=fractions[0], val=fractions[1], test=fractions[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "{person}/{image}"}, "{identity}"),
        ({"pattern": "{identity}/{identity}"}, "a different name"),
        ({"pattern": "{identity}/{1}"}, "a different name"),
        ({"caption_suffix": "txt"}, "data.source_options.caption_suffix"),
    ],
)
def test_an_invalid_source_option_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        SourceConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_pixels": 10**9}, "data.filters.max_pixels"),
        ({"min_side": 0}, "data.filters.min_side"),
        ({"max_aspect": 0.5}, "data.filters.max_aspect"),
        ({"max_hash_distance": 40}, "data.filters.max_hash_distance"),
        ({"filter_fn": "not a function"}, "package.module:function"),
        ({"scores": ("sharpness",)}, "'sharpness'"),
    ],
)
def test_an_invalid_filter_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        FilterConfig(**changes)


def test_the_digest_depends_on_the_content_and_not_on_locations() -> None:
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
    ("changes", "message"),
    [
        ({"num_workers": -1}, "stream.num_workers is -1"),
        ({"retries": -1}, "stream.retries is -1"),
        ({"on_error": "ignore"}, "stream.on_error is 'ignore'; give raise or skip"),
        ({"mixture": {"other": 0.0}}, "stream.mixture: the weight of other is 0.0"),
    ],
)
def test_an_invalid_stream_setting_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataLoaderConfig(**changes)
