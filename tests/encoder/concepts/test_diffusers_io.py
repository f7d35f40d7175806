"""Concepts go to diffusers and come back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.concepts.concept import Concept
from encoder.concepts.diffusers_io import LORA_WEIGHTS_NAME, TI_WEIGHTS_NAME, from_diffusers, to_diffusers
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.images import to_images
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from tests.bases import UNETS

PROMPT, TOKEN = "a portrait of a *s in a red shirt", "<alex>"
WORD = {"token_type": "embedding", "trainable": "none", "embedding_learning_rate": 0.1}
LOW_RANK = {"token_type": "rare_token", "trainable": "lora", "lora_rank": 2, "lora_learning_rate": 0.1}


@pytest.fixture(params=list(UNETS))
def base(request: pytest.FixtureRequest, family_folders: Path) -> Path:
    return family_folders / request.param


@pytest.fixture
def pipe(base: Path) -> E4TPipeline:
    return E4TPipeline.from_base(
        BackboneConfig(model=str(base)),
        ConditioningConfig(domain_word="person", templates=("a portrait of a *s",)),
        sample_config=SampleConfig(num_inference_steps=3, guidance_scale=3.0),
        tune_config=TuneConfig(steps=2, batch_size=2),
    )


@pytest.fixture
def theirs(base: Path) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    if base.name == "sdxl":
        pipeline = StableDiffusionXLPipeline.from_pretrained(base, dtype=torch.float32)
    else:
        no_checker = {"safety_checker": None, "feature_extractor": None}
        pipeline = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32, **no_checker)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def image(pixels: Tensor) -> Image.Image:
    return to_images(pixels[:1])[0]


def painted_by(theirs: StableDiffusionPipeline, prompt: str) -> Tensor:
    return theirs(
        prompt, num_inference_steps=3, guidance_scale=3.0, generator=torch.Generator().manual_seed(1),
        output_type="latent", height=32, width=32,
    ).images  # fmt: skip


def load_word(theirs: StableDiffusionPipeline, folder: Path) -> None:
    """As diffusers' documentation loads learned embeddings."""
    if not isinstance(theirs, StableDiffusionXLPipeline):
        theirs.load_textual_inversion(folder)
        return
    tensors = load_file(folder / TI_WEIGHTS_NAME)
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        parts = {key: getattr(theirs, f"{key}{suffix}") for key in ("text_encoder", "tokenizer")}
        theirs.load_textual_inversion(tensors[name], token=TOKEN, **parts)


def test_diffusers_paints_a_learned_word_as_we_do(
    pipe: E4TPipeline, theirs: StableDiffusionPipeline, image: Image.Image, tmp_path: Path
) -> None:
    concept = pipe.tune(image, **WORD)
    to_diffusers(concept, tmp_path, token=TOKEN)
    load_word(theirs, tmp_path)
    ours = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    torch.testing.assert_close(painted_by(theirs, PROMPT.replace("*s", TOKEN)), ours, rtol=1e-3, atol=1e-4)


def test_diffusers_paints_a_low_rank_change_as_we_do(
    pipe: E4TPipeline, theirs: StableDiffusionPipeline, image: Image.Image, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="load_lora_weights needs peft")
    concept = pipe.tune(image, **LOW_RANK)
    to_diffusers(concept, tmp_path, token=TOKEN)
    theirs.load_lora_weights(tmp_path)
    ours = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    torch.testing.assert_close(painted_by(theirs, PROMPT.replace("*s", "sks person")), ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [WORD, LOW_RANK], ids=["word", "low rank"])
def test_what_was_written_comes_back_as_it_was(
    pipe: E4TPipeline, image: Image.Image, tmp_path: Path, settings: dict[str, object]
) -> None:
    concept = pipe.tune(image, **settings)
    to_diffusers(concept, tmp_path, token=TOKEN)
    painted = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.load_concept(from_diffusers(tmp_path, release=pipe.release))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), painted)


@pytest.mark.parametrize("base", ["sd1"], indirect=True)
class TestWhatCannotBeHeld:
    """Errors, where the family makes no difference."""

    def test_the_domain_encoders_word(self, pipe: E4TPipeline, image: Image.Image, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="domain encoder speaks"):
            to_diffusers(pipe.tune(image), tmp_path / "out", token=TOKEN)
        assert not (tmp_path / "out").exists()

    def test_whole_weights(self, pipe: E4TPipeline, image: Image.Image, tmp_path: Path) -> None:
        concept = pipe.tune(image, token_type="rare_token")
        with pytest.raises(ModelError, match="whole weights"):
            to_diffusers(concept, tmp_path / "out", token=TOKEN)

    def test_a_folder_without_either_file(self, tmp_path: Path, base: Path) -> None:
        with pytest.raises(ModelError, match="holds neither"):
            from_diffusers(tmp_path, release="base")

    def test_several_words(self, tmp_path: Path, base: Path) -> None:
        save_file({"<a>": torch.zeros(24), "<b>": torch.zeros(24)}, tmp_path / TI_WEIGHTS_NAME)
        with pytest.raises(ModelError, match="several words"):
            from_diffusers(tmp_path, release="base")

    @pytest.mark.parametrize("file", [TI_WEIGHTS_NAME, LORA_WEIGHTS_NAME])
    def test_a_file_that_is_no_safetensors(self, tmp_path: Path, base: Path, file: str) -> None:
        (tmp_path / file).write_bytes(b"\x80\x04pickled")
        with pytest.raises(ModelError, match="cannot be read"):
            from_diffusers(tmp_path, release="base")


@pytest.mark.parametrize("base", ["sd1"], indirect=True)
def test_a_scaled_change_counts_by_its_alpha(pipe: E4TPipeline, image: Image.Image, tmp_path: Path) -> None:
    """As kohya's trainer writes them: alpha / rank is a factor of the change."""
    concept: Concept = pipe.tune(image, **LOW_RANK)
    to_diffusers(concept, tmp_path, token=TOKEN)
    layers = load_file(tmp_path / LORA_WEIGHTS_NAME)
    places = {name.removesuffix(".lora_A.weight") for name in layers if name.endswith(".lora_A.weight")}
    kohya = {}
    for place in places:
        name = "lora_unet_" + place.removeprefix("unet.").replace(".", "_")
        kohya[f"{name}.lora_down.weight"] = layers[f"{place}.lora_A.weight"]
        kohya[f"{name}.lora_up.weight"] = layers[f"{place}.lora_B.weight"] * 2
        kohya[f"{name}.alpha"] = torch.tensor(1.0)  # of rank 2
    save_file(kohya, tmp_path / LORA_WEIGHTS_NAME)
    back = from_diffusers(tmp_path, release=pipe.release)
    assert back.weight_deltas["unet"].keys() == concept.weight_deltas["unet"].keys()
    wanted = replace(concept, settings={})
    pipe.load_concept(wanted)
    painted = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.load_concept(back)
    torch.testing.assert_close(
        pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), painted, rtol=1e-3, atol=1e-4
    )
