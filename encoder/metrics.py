"""Similarity of images to each other and to prompts, from CLIP or another feature extractor."""

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPTokenizer

from e4t_errors import ConfigError
from encoder.backbone.backbone import preprocess_clip, resize_and_normalize


class ClipScorer:
    """Compute unit-length CLIP features of images and prompts; their dot product is the cosine similarity."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Load a CLIP with image encoder, text encoder and tokenizer from a hub id or folder.

        Raises ConfigError if it cannot be loaded.
        """
        try:
            self.model = CLIPModel.from_pretrained(model, dtype=torch.float32, use_safetensors=True).to(device).eval()
            self.tokenizer = CLIPTokenizer.from_pretrained(model)
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"CLIP model {model} cannot be loaded: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Compute features (B, p) of images (B, 3, H, W) in [-1, 1]."""
        outputs = self.model.vision_model(preprocess_clip(pixels, self.model.config.vision_config.image_size))
        return F.normalize(self.model.visual_projection(outputs.pooler_output), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Compute features (B, p) of prompts."""
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        outputs = self.model.text_model(tokens.to(self.model.device))
        return F.normalize(self.model.text_projection(outputs.pooler_output), dim=-1)


class ImageFeatureExtractor:
    """Compute unit-length features with any image model that transformers loads, such as DINO or a face recognizer."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Load weights and image processor from a hub id or folder. Raises ConfigError if they cannot be loaded."""
        try:
            self.model = AutoModel.from_pretrained(
                model, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
            self.processor = AutoImageProcessor.from_pretrained(model, backend="pil", trust_remote_code=False)
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"recognizer {model} cannot be loaded: {str(error).splitlines()[0]}") from error
        self.model.to(device).eval()

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Compute features (B, p) of images (B, 3, H, W) in [-1, 1].

        They are the model's pooled output or, if it has none, the last hidden state of the class token.
        """
        size, mean, std = self._size(), self.processor.image_mean, self.processor.image_std
        inputs = resize_and_normalize(pixels, size, mean, std).to(self.model.device)
        output = self.model(inputs)
        pooled = getattr(output, "pooler_output", None)
        return F.normalize((output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1), dim=-1)

    def _size(self) -> int:
        """Return the side in pixels of the model's input."""
        crops = getattr(self.processor, "do_center_crop", False)
        size = dict(self.processor.crop_size if crops else self.processor.size)
        return int(size.get("height") or size["shortest_edge"])


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Compute the cosine similarity (B,) of unit-length rows (B, p)."""
    return (first * second).sum(dim=-1)
