"""Concepts are exported to diffusers and imported again."""

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
EMBEDDING = {"token_type": "embedding", "trainable": "none", "embedding_learning_rate": 0.1}
LORA = {"token_type": "rare_token", "trainable": "lora", "lora_rank": 2, "lora_learning_rate": 0.1}


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
def diffusers_pipeline(base: Path) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
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


def sample_with(diffusers_pipeline: StableDiffusionPipeline, prompt: str) -> Tensor:
    return diffusers_pipeline(
        prompt, num_inference_steps=3, guidance_scale=3.0, generator=torch.Generator().manual_seed(1),
        output_type="latent", height=32, width=32,
    ).images  # fmt: skip


def load_embedding(diffusers_pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Load learned embeddings as diffusers' documentation does."""
    if not isinstance(diffusers_pipeline, StableDiffusionXLPipeline):
        diffusers_pipeline.load_textual_inversion(folder)
        return
    tensors = load_file(folder / TI_WEIGHTS_NAME)
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        parts = {key: getattr(diffusers_pipeline, f"{key}{suffix}") for key in ("text_encoder", "tokenizer")}
        diffusers_pipeline.load_textual_inversion(tensors[name], token=TOKEN, **parts)


def test_diffusers_samples_a_learned_embedding_as_e4t_does(
    pipe: E4TPipeline, diffusers_pipeline: StableDiffusionPipeline, image: Image.Image, tmp_path: Path
) -> None:
    concept = pipe.tune(image, **EMBEDDING)
    to_diffusers(concept, tmp_path, token=TOKEN)
    load_embedding(diffusers_pipeline, tmp_path)
    expected = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    torch.testing.assert_close(
        sample_with(diffusers_pipeline, PROMPT.replace("*s", TOKEN)), expected, rtol=1e-3, atol=1e-4
    )


def test_diffusers_samples_a_lora_as_e4t_does(
    pipe: E4TPipeline, diffusers_pipeline: StableDiffusionPipeline, image: Image.Image, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="load_lora_weights needs peft")
    concept = pipe.tune(image, **LORA)
    to_diffusers(concept, tmp_path, token=TOKEN)
    diffusers_pipeline.load_lora_weights(tmp_path)
    expected = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    torch.testing.assert_close(
        sample_with(diffusers_pipeline, PROMPT.replace("*s", "sks person")), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("settings", [EMBEDDING, LORA], ids=["embedding", "lora"])
def test_an_exported_concept_samples_the_same_after_import(
    pipe: E4TPipeline, image: Image.Image, tmp_path: Path, settings: dict[str, object]
) -> None:
    concept = pipe.tune(image, **settings)
    to_diffusers(concept, tmp_path, token=TOKEN)
    sampled = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.load_concept(from_diffusers(tmp_path, release=pipe.release))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), sampled)


@pytest.mark.parametrize("base", ["sd1"], indirect=True)
class TestUnsupportedConcepts:
    """On one family, because the others make no difference here."""

    def test_a_token_of_the_domain_encoder_is_refused(
        self, pipe: E4TPipeline, image: Image.Image, tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match="predicted by the domain encoder"):
            to_diffusers(pipe.tune(image), tmp_path / "out", token=TOKEN)
        assert not (tmp_path / "out").exists()

    def test_dense_weight_deltas_are_refused(self, pipe: E4TPipeline, image: Image.Image, tmp_path: Path) -> None:
        concept = pipe.tune(image, token_type="rare_token")
        with pytest.raises(ModelError, match="dense weight deltas"):
            to_diffusers(concept, tmp_path / "out", token=TOKEN)

    def test_a_folder_without_either_file_is_refused(self, tmp_path: Path, base: Path) -> None:
        with pytest.raises(ModelError, match="holds neither"):
            from_diffusers(tmp_path, release="base")

    def test_several_embeddings_are_refused(self, tmp_path: Path, base: Path) -> None:
        save_file({"<a>": torch.zeros(24), "<b>": torch.zeros(24)}, tmp_path / TI_WEIGHTS_NAME)
        with pytest.raises(ModelError, match="several embeddings"):
            from_diffusers(tmp_path, release="base")

    @pytest.mark.parametrize("file", [TI_WEIGHTS_NAME, LORA_WEIGHTS_NAME])
    def test_a_file_in_another_format_is_refused(self, tmp_path: Path, base: Path, file: str) -> None:
        (tmp_path / file).write_bytes(b"\x80\x04pickled")
        with pytest.raises(ModelError, match="cannot be read"):
            from_diffusers(tmp_path, release="base")


@pytest.mark.parametrize("base", ["sd1"], indirect=True)
def test_the_alpha_of_a_kohya_lora_scales_it(pipe: E4TPipeline, image: Image.Image, tmp_path: Path) -> None:
    """Kohya's trainer stores an alpha; alpha / rank is a factor of the delta."""
    concept: Concept = pipe.tune(image, **LORA)
    to_diffusers(concept, tmp_path, token=TOKEN)
    layers = load_file(tmp_path / LORA_WEIGHTS_NAME)
    modules = {name.removesuffix(".lora_A.weight") for name in layers if name.endswith(".lora_A.weight")}
    kohya = {}
    for module in modules:
        name = "lora_unet_" + module.removeprefix("unet.").replace(".", "_")
        kohya[f"{name}.lora_down.weight"] = layers[f"{module}.lora_A.weight"]
        kohya[f"{name}.lora_up.weight"] = layers[f"{module}.lora_B.weight"] * 2
        kohya[f"{name}.alpha"] = torch.tensor(1.0)  # of rank 2
    save_file(kohya, tmp_path / LORA_WEIGHTS_NAME)
    back = from_diffusers(tmp_path, release=pipe.release)
    assert back.weight_deltas["unet"].keys() == concept.weight_deltas["unet"].keys()
    expected = replace(concept, settings={})
    pipe.load_concept(expected)
    sampled = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.load_concept(back)
    torch.testing.assert_close(
        pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), sampled, rtol=1e-3, atol=1e-4
    )
