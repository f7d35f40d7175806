"""Keys and values of recipes and site files that have another name now.

For one release a recipe that uses an old name is refused with a line that gives the new one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from e4t_errors import ConfigError

_TUNE = {
    "regulariser": "regularization_weight",
    "word": "token_type",
    "identifier": "rare_token",
    "train": "trainable",
    "text_encoder": "train_text_encoder",
    "prior_pictures": "num_class_images",
    "prior_weight": "prior_loss_weight",
    "stored_bits": "delta_bits",
}

RENAMED_KEYS: dict[str, dict[str, str]] = {
    "base": {"clip": "image_encoder"},
    "data": {
        "concept": "domain",
        "select": "filters",
        "codec": "format",
        "pattern": "source_options.pattern",  # this and the next three: names of 0.1.0
        "caption_suffix": "source_options.caption_suffix",
        "min_side": "filters.min_side",
        "max_pixels": "filters.max_pixels",
    },
    "data.source_options": {"kind": "type"},
    "data.filters": {"near_duplicates": "max_hash_distance", "predicate": "filter_fn"},
    "conditioning": {"residual_scale": "embedding_scale", "caption_share": "caption_probability"},
    "stream": {
        "window_shards": "shuffle_window_shards",
        "mix": "mixture",
        "workers": "num_workers",
        "threads": "num_workers",  # name in 0.1.0
        "flip": "horizontal_flip",
        "cache_folder": "cache_dir",
        "cache_bytes": "cache_max_bytes",
        "damaged": "on_error",
    },
    "pretrain": {
        "steps": "max_steps",
        "cached": "use_feature_cache",
        "batch_size": "global_batch_size",
        "offsets": "offset_type",
        "decay": "lr_schedule",
        "regulariser": "regularization_weight",
        "encoder_sees": "encoder_inputs",
        "average": "ema_decay",
        "skips_allowed": "max_consecutive_skips",
        "spike_factor": "loss_spike_factor",
        "start_timeout_seconds": "init_timeout_seconds",
        "keep": "keep_last",
        "sample_every": "eval_every",
        "validate_samples": "eval_samples",
    },
    "tune": _TUNE,
    "sample": {"steps": "num_inference_steps", "guidance": "guidance_scale"},
    "evaluate": {
        "concepts": "num_concepts",
        "edits": "num_prompts",
        "recogniser": "recognizer",
        "shown": "num_grid_concepts",
        "identities": "num_concepts",  # this and the next: names of 0.1.0
        "grid_rows": "num_grid_concepts",
    },
    "compare.systems": {"start": "init", "after": "init_from", "pictures": "num_images"},
    "compare.systems.settings": _TUNE,
    "publish": {"gate": "min_scores", "licence": "license", "data": "data_statement"},
    "publish.min_scores": {
        "likeness": "identity_similarity",
        "truth": "reference_similarity",
        "pixels off": "rmse",
        "obeyed": "attribute_accuracy",
        "recognised": "recognizer_similarity",
        "concept": "concept_similarity",
        "prompt": "prompt_similarity",
        "person": "identity_accuracy",
    },
}
"""Old to new key, by the section (under its new name) in which the key stands."""

RENAMED_SITE_KEYS: dict[str, dict[str, str]] = {
    "slurm": {"array_at_once": "max_parallel_tasks"},
    "k8s": {"pods_at_once": "max_parallel_pods", "data": "data_claim", "runs": "runs_claim"},
}
"""Old to new key of the site files of ``e4t submit``, by scheduler."""

_TUNE_VALUES = {"token_type": {"identifier": "rare_token"}, "trainable": {"nothing": "none"}}
MOVED_KEYS = {"data.read.kind": "data.source_options.type"} | {
    f"data.read.{key}": f"data.source_options.{key}"
    for key in (
        "pattern",
        "identities",
        "attributes",
        "image_column",
        "identity_column",
        "caption_column",
        "split",
        "streaming",
        "caption_suffix",
    )
}
"""Keys that stand in another section now, whose old section exists with another meaning: old to new dotted key."""

RENAMED_VALUES: dict[str, dict[str, str]] = {
    "stream.on_error": {"stop": "raise"},
    "pretrain.precision": {"no": "fp32"},
    "pretrain.offset_type": {"overparametrised": "overparametrized", "direct": "low_rank"},
    "pretrain.encoder_inputs": {
        "everything": "full",
        "no maps": "no_unet_features",
        "last layer": "last_layer_only",
    },
    **{f"tune.{key}": values for key, values in _TUNE_VALUES.items()},
    **{f"compare.systems.settings.{key}": values for key, values in _TUNE_VALUES.items()},
}
"""Old to new value, by the new dotted key."""

RENAMED_PLACEHOLDERS = {"data.caption_template": ("{concept}", "{domain}")}
"""Old and new placeholder in the text of a key, by the new dotted key."""


def check_recipe_names(recipe: Mapping[str, Any], location: str) -> None:
    """Refuse a recipe that uses old names.

    Args:
        recipe: the recipe, or a part of it, as nested dicts.
        location: where the recipe stands, for the message: a path, or ``command line``.

    Raises:
        ConfigError: names every old key and value with its new name, in one line.
    """
    _refuse(_renamed_in(recipe, "", ""), location)


def check_site_names(scheduler: str, site: Mapping[str, Any], location: str) -> None:
    """Refuse the site settings of ``e4t submit <scheduler>`` that use old names. Raises ConfigError."""
    keys = RENAMED_SITE_KEYS.get(scheduler, {})
    _refuse((f"{key} is now {keys[key]}" for key in site if key in keys), location)


def _refuse(renamed: Iterator[str], location: str) -> None:
    if changes := list(dict.fromkeys(renamed)):
        raise ConfigError(f"{location} uses old names: {', '.join(changes)}; rename {'them' if changes[1:] else 'it'}")


def _renamed_in(section: Mapping[str, Any], old_path: str, new_path: str) -> Iterator[str]:
    """Yield ``old is now new`` for each key and value below ``section``, whose own dotted key was ``old_path``."""
    for key, value in section.items():
        if not isinstance(key, str):
            continue
        new_key = RENAMED_KEYS.get(new_path, {}).get(key, key)
        old, new = f"{old_path}{key}", f"{new_path}.{new_key}".lstrip(".")
        moved = MOVED_KEYS.get(new)
        new = moved or new
        if moved or new_key != key:
            yield f"{old} is now {new}"
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, Mapping):
                yield from _renamed_in(item, f"{old}.", new)
        text = "no" if value is False else str(value)  # YAML reads a bare `no` as false
        placeholder, new_placeholder = RENAMED_PLACEHOLDERS.get(new, ("", ""))
        if placeholder and placeholder in text:
            yield f"{placeholder} in {old} is now {new_placeholder}"
        if text in (values := RENAMED_VALUES.get(new, {})):
            yield f"{old}: {text} is now {new}: {values[text]}"
