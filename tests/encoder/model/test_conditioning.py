"""Prompts with a concept at the placeholder, and the choice of prompts."""

from dataclasses import replace

import pytest
import torch

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.config import ConditioningConfig
from encoder.errors import ModelError
from encoder.model.conditioning import Conditioning


def test_with_v_0_the_embeddings_are_those_of_the_domain_word(conditioning: Conditioning) -> None:
    """Conformance check 2 (docs/conformance.md)."""
    prompts = conditioning.tokenize(["a portrait of a *s in a red shirt"])
    concept = conditioning.encode_prompts(prompts, conditioning.placeholder_embeddings(torch.zeros(1, 128)))
    domain_word = conditioning.encode_prompts(conditioning.tokenize(["a portrait of a person in a red shirt"]))
    assert torch.equal(concept.prompt_embeds, domain_word.prompt_embeds)


def test_another_token_changes_the_embeddings_from_the_placeholder_on(conditioning: Conditioning) -> None:
    prompts = conditioning.tokenize(["a portrait of a *s in a red shirt"])
    position = int(prompts.placeholder_mask[0, 0].int().argmax())
    other, default = (
        conditioning.encode_prompts(prompts, token).prompt_embeds for token in (torch.randn(1, 128), None)
    )
    assert torch.equal(other[:, :position], default[:, :position])
    assert not torch.allclose(other[:, position:], default[:, position:], atol=1e-3)


def test_the_unconditional_embeddings_follow_the_text_encoders_to_another_device(conditioning: Conditioning) -> None:
    assert conditioning.unconditional_embeddings().prompt_embeds.device.type == "cpu"
    conditioning.text_encoders.to("meta")
    assert conditioning.unconditional_embeddings().prompt_embeds.device.type == "meta"


def test_a_caption_becomes_a_prompt_for_the_concept(conditioning: Conditioning) -> None:
    assert (
        conditioning.caption_prompt("a portrait of a smiling person in a red shirt")
        == "a portrait of a smiling *s in a red shirt"
    )


def test_a_caption_without_the_domain_word_gives_the_template(conditioning: Conditioning) -> None:
    assert conditioning.caption_prompt("a red shirt") == "a portrait of a *s"


def test_a_domain_word_of_several_tokens_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="tokens of this base model"):
        Conditioning.from_backbone(backbone, ConditioningConfig(domain_word="xylophonist"))


def test_a_template_without_the_placeholder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\*s"):
        ConditioningConfig(domain_word="person", templates=("a portrait",))


def test_a_placeholder_beyond_the_limit_of_the_text_encoder_is_refused(conditioning: Conditioning) -> None:
    long = "red " * 80
    for prompt in (f"{long} *s", f"*s {long} *s"):
        with pytest.raises(ModelError, match=r"longer than the \d+ tokens .* and \*s is beyond them; shorten it"):
            conditioning.tokenize(["a *s", prompt])
    assert conditioning.tokenize([f"*s {long}"]).placeholder_mask.sum() == 1


def test_a_caption_whose_domain_word_would_be_cut_off_is_replaced_by_a_template(conditioning: Conditioning) -> None:
    captions_only = Conditioning(conditioning.text_encoders, replace(conditioning.config, caption_probability=1.0))
    prompts = captions_only.sample_prompts(["red " * 80 + "person", "a person, smiling"], torch.zeros(2))
    template, caption = conditioning.tokenize(["a portrait of a *s", "a *s, smiling"])[:].input_ids
    assert torch.equal(prompts.input_ids[0], template)
    assert torch.equal(prompts.input_ids[1], caption)


def test_upper_case_is_the_placeholder_and_a_part_of_a_word_is_not(conditioning: Conditioning) -> None:
    lower, upper, shirt = conditioning.tokenize(["a *s, smiling", "a *S, smiling", "a *shirt"]).placeholder_mask
    assert torch.equal(lower, upper)
    assert lower.sum() == 1
    assert not shirt.any()
