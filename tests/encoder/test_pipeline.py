from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import EncodedToken, LearnedToken, RareToken
from encoder.concepts.weight_deltas import LowRankDelta, QuantizedDelta
from encoder.config import BackboneConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.images import open_image, to_images
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
BASE = Path(__file__).parents[2] / "models" / "base"


@pytest.fixture
def pipe(backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning) -> E4TPipeline:
    return E4TPipeline(
        backbone, encoder, conditioning, release="test 1.0.0",
        tune_config=TuneConfig(steps=1, batch_size=2, learning_rate=1e-4),
        sample_config=SampleConfig(num_inference_steps=3, guidance_scale=3.0),
    )  # fmt: skip


@pytest.fixture
def image(pixels: Tensor) -> Image.Image:
    return to_images(pixels[:1])[0]


def test_without_a_concept_it_generates_the_same_image_as_stable_diffusion_pipeline(pipe: E4TPipeline) -> None:
    prompt = "a portrait of a smiling person in a red shirt on a navy background"
    diffusers_pipeline = StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32)
    diffusers_pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    expected = diffusers_pipeline(
        prompt, num_inference_steps=3, guidance_scale=3.0, generator=generator, output_type="pt"
    ).images
    actual = pipe.backbone.decode(pipe.sample([prompt], pipe.sample_config, seeded_generators(3, 1)))
    torch.testing.assert_close((actual + 1) / 2, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "kind",
    [
        DDPMScheduler,
        DEISMultistepScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        KDPM2DiscreteScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    ],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_with_another_scheduler_it_generates_the_same_image_as_stable_diffusion_pipeline(
    pipe: E4TPipeline, kind: Any
) -> None:
    prompt = "a portrait of a smiling person in a red shirt on a navy background"
    diffusers_pipeline = StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32)
    diffusers_pipeline.set_progress_bar_config(disable=True)
    diffusers_pipeline.scheduler = kind.from_config(diffusers_pipeline.scheduler.config)
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    expected = diffusers_pipeline(
        prompt, num_inference_steps=4, guidance_scale=3.0, generator=seeded_generators(3, 1), output_type="pt"
    ).images
    config = SampleConfig(num_inference_steps=4, guidance_scale=3.0)
    actual = pipe.backbone.decode(pipe.sample([prompt], config, seeded_generators(3, 1)))
    torch.testing.assert_close((actual + 1) / 2, expected, rtol=0, atol=5e-3)


def test_a_scheduler_for_another_kind_of_model_is_refused(pipe: E4TPipeline) -> None:
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ConfigError, match="LCMScheduler needs a model that was trained or distilled for it"):
        pipe("a portrait")


def test_a_tuned_concept_changes_the_image_and_unloading_it_restores_the_first_one(
    pipe: E4TPipeline, image: Image.Image
) -> None:
    prompt = "a portrait of a person in a red shirt"
    before = pipe(prompt, generator=seeded_generators(0, 1))[0]
    pipe.tune(image)
    assert pipe(prompt, generator=seeded_generators(0, 1))[0].tobytes() != before.tobytes()
    pipe.unload_concept()
    assert pipe(prompt, generator=seeded_generators(0, 1))[0].tobytes() == before.tobytes()


def test_a_saved_concept_generates_the_same_image_after_loading(
    pipe: E4TPipeline, image: Image.Image, tmp_path: Path
) -> None:
    pipe.tune(image).save(tmp_path / "concept")
    first = pipe("a portrait of a *s", generator=seeded_generators(0, 1))[0]
    pipe.unload_concept()
    pipe.load_concept(tmp_path / "concept")
    assert pipe("a portrait of a *s", generator=seeded_generators(0, 1))[0].tobytes() == first.tobytes()


@pytest.mark.parametrize(
    "broken",
    [
        {"unet": {"conv_in.bias": torch.ones(3)}},
        {"unet": {"conv_out.nothing": torch.ones(3)}},
        {"encoder": {"to_embedding.weight": QuantizedDelta(torch.ones(3, 3, dtype=torch.int8), torch.ones(3, 1))}},
        {"unet": {ATTENTION: LowRankDelta(torch.ones(5, 1), torch.ones(1, 5))}},
        {"text_encoder_2": {"x": torch.ones(1)}},
        "token",
    ],
    ids=["dense", "unknown", "quantized", "low rank", "missing module", "token"],
)
def test_a_concept_that_does_not_fit_is_refused_and_changes_nothing(pipe: E4TPipeline, broken: Any) -> None:
    fitting = {"unet": {"conv_in.weight": torch.ones_like(pipe.backbone.unet.conv_in.weight) * 0.1}}
    before = pipe("a portrait", generator=seeded_generators(0, 1))[0]
    pipe.load_concept(Concept(weight_deltas=fitting, token=RareToken("sks"), release="test 1.0.0"))
    loaded = pipe("a portrait", generator=seeded_generators(0, 1))[0]
    token = LearnedToken(torch.ones(3), (3,)) if broken == "token" else RareToken("sks")
    deltas = fitting if broken == "token" else fitting | broken
    with pytest.raises(ModelError, match="another release|tune it again here"):
        pipe.load_concept(Concept(weight_deltas=deltas, token=token, release="test 1.0.0"))
    assert pipe("a portrait", generator=seeded_generators(0, 1))[0].tobytes() == loaded.tobytes()
    pipe.unload_concept()
    assert pipe("a portrait", generator=seeded_generators(0, 1))[0].tobytes() == before.tobytes()


def test_a_concept_in_one_file_generates_the_same_image_after_loading(
    pipe: E4TPipeline, image: Image.Image, tmp_path: Path
) -> None:
    (tmp_path / "concept.safetensors").write_bytes(pipe.tune(image).to_bytes())
    first = pipe("a portrait of a *s", generator=seeded_generators(0, 1))[0]
    pipe.unload_concept()
    pipe.load_concept(tmp_path / "concept.safetensors")
    assert pipe("a portrait of a *s", generator=seeded_generators(0, 1))[0].tobytes() == first.tobytes()


@pytest.mark.parametrize("data", [b"", b"\x02" + 7 * b"\0" + b"{}", b"\xff" * 64, 8 * b"\0" + b"PK\x03\x04"])
def test_bytes_that_are_not_a_concept_are_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="not a complete concept"):
        Concept.from_bytes(data)


@pytest.mark.parametrize("settings", [{}, {"trainable": "lora"}, {"token_type": "embedding"}])
def test_images_generated_during_tuning_show_its_progress_and_do_not_change_its_result(
    pipe: E4TPipeline, image: Image.Image, settings: dict
) -> None:
    alone = pipe.tune(image, steps=2, **settings)
    previews: list[Image.Image] = []
    watched = pipe.tune(
        image,
        steps=2,
        on_step=lambda *_: previews.extend(pipe("a portrait of a *s", generator=seeded_generators(0, 1))),
        **settings,
    )
    assert watched.to_bytes() == alone.to_bytes()
    first, last, by_concept = (
        np.array(each, float) for each in (*previews, pipe("a portrait of a *s", generator=seeded_generators(0, 1))[0])
    )
    assert abs(first - last).max() > 0
    assert abs(by_concept - last).max() <= 4  # of 255: a concept has 16 bits a number


def test_an_image_does_not_depend_on_the_others_in_the_batch(pipe: E4TPipeline, image: Image.Image) -> None:
    pipe.tune(image)
    together = pipe.sample(["a portrait of a *s"] * 2, pipe.sample_config, seeded_generators(5, 2))
    alone = pipe.sample(["a portrait of a *s"], pipe.sample_config, seeded_generators(6, 1))
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-3)


def test_a_placeholder_without_a_concept_is_refused(pipe: E4TPipeline) -> None:
    with pytest.raises(ModelError, match="no concept is loaded"):
        pipe("a portrait of a *s", generator=seeded_generators(0, 1))


def test_a_concept_of_another_release_is_refused(pipe: E4TPipeline) -> None:
    foreign = Concept(weight_deltas={}, token=EncodedToken(torch.zeros(1, 4, 128)), release="other 2.0.0")
    with pytest.raises(ModelError, match=r"other 2\.0\.0"):
        pipe.load_concept(foreign)


def test_an_incomplete_concept_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "concept.json").write_text("{}")
    with pytest.raises(ModelError, match="not a complete concept"):
        Concept.load(tmp_path)


def test_a_concept_never_overwrites_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exists"):
        Concept(weight_deltas={}, token=EncodedToken(torch.zeros(1, 4, 8)), release="x").save(tmp_path)


def test_an_unreadable_image_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ModelError, match=r"broken\.png cannot be read as an image"):
        open_image(tmp_path / "broken.png")


def test_an_image_is_rotated_by_its_exif_orientation(tmp_path: Path) -> None:
    sideways, orientation = Image.new("RGB", (4, 2)), Image.Exif()
    orientation[0x0112] = 6
    sideways.save(tmp_path / "phone.jpg", exif=orientation)
    assert open_image(tmp_path / "phone.jpg").size == (2, 4)


def test_a_folder_without_a_base_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Backbone.load(BackboneConfig(model=str(tmp_path)))


def test_a_missing_base_model_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Backbone.load(BackboneConfig(model="./nowhere"))


def test_a_mask_may_be_a_function_of_the_image(pipe: E4TPipeline, image: Image.Image) -> None:
    half = Image.new("L", image.size, 0)
    half.paste(255, (0, 0, image.width // 2, image.height))
    by_image, by_function = (pipe.tune(image, mask=mask) for mask in (half, lambda _: half))
    for name, delta in by_image.weight_deltas["encoder"].items():
        assert torch.equal(delta, by_function.weight_deltas["encoder"][name])


def test_a_mask_of_another_size_is_refused(pipe: E4TPipeline, image: Image.Image) -> None:
    with pytest.raises(ModelError, match="give equal sizes"):
        pipe.tune(image, mask=Image.new("L", (7, 7), 255))


def test_a_number_of_masks_other_than_that_of_images_is_refused(pipe: E4TPipeline, image: Image.Image) -> None:
    with pytest.raises(ModelError, match="one mask per image"):
        pipe.tune([image, image], mask=Image.new("L", image.size, 255))


def test_keywords_of_tune_override_the_release_settings(pipe: E4TPipeline, image: Image.Image) -> None:
    assert pipe.tune(image, steps=0, trainable="attention").settings["trainable"] == "attention"


def test_a_release_generates_and_tunes_at_its_training_resolution(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, image: Image.Image
) -> None:
    smaller = E4TPipeline(
        backbone, encoder, conditioning, resolution=32, sample_config=SampleConfig(num_inference_steps=1)
    )
    assert smaller.preprocess(image).shape == (1, 3, 32, 32)
    assert smaller("a portrait of a person")[0].size == (32, 32)


def test_a_rare_token_stands_for_the_placeholder_in_either_case_and_is_never_cut_off(pipe: E4TPipeline) -> None:
    pipe.load_concept(Concept(weight_deltas={}, token=RareToken("sks"), release="test 1.0.0"))
    lower, upper = (pipe(f"a portrait of {text}", generator=seeded_generators(0, 1))[0] for text in ("*s", "*S"))
    assert lower.tobytes() == upper.tobytes()
    with pytest.raises(ModelError, match="is beyond them; shorten it"):
        pipe("red " * 80 + "*s")
