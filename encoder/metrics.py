"""How close pictures are to each other and to prompts: by a CLIP with both towers, or by a recogniser."""

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPTokenizer

from e4t import ConfigError
from encoder.backbone.backbone import preprocess_clip, resize_and_normalize


class ClipScorer:
    """Unit-length CLIP features of pictures and prompts; their dot product is the similarity."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Load from a hub id or folder that holds both towers and the tokenizer. Raises ConfigError otherwise."""
        try:
            self.model = CLIPModel.from_pretrained(model, dtype=torch.float32, use_safetensors=True).to(device).eval()
            self.tokenizer = CLIPTokenizer.from_pretrained(model)
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"metric CLIP {model} cannot be loaded: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Features (B, p) of pictures (B, 3, H, W) in [-1, 1]."""
        outputs = self.model.vision_model(preprocess_clip(pixels, self.model.config.vision_config.image_size))
        return F.normalize(self.model.visual_projection(outputs.pooler_output), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Features (B, p) of prompts."""
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        outputs = self.model.text_model(tokens.to(self.model.device))
        return F.normalize(self.model.text_projection(outputs.pooler_output), dim=-1)


class ImageFeatureExtractor:
    """Unit-length features of any picture model that transformers opens: DINO, a face recogniser."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Load from a hub id or folder with weights and picture processor. Raises ConfigError otherwise."""
        try:
            self.model = AutoModel.from_pretrained(
                model, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
            self.processor = AutoImageProcessor.from_pretrained(model, backend="pil", trust_remote_code=False)
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"recogniser {model} cannot be loaded: {str(error).splitlines()[0]}") from error
        self.model.to(device).eval()

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Features (B, p) of pictures (B, 3, H, W) in [-1, 1]: the pooled state, else the class token's."""
        size, mean, std = self._size(), self.processor.image_mean, self.processor.image_std
        inputs = resize_and_normalize(pixels, size, mean, std).to(self.model.device)
        output = self.model(inputs)
        pooled = getattr(output, "pooler_output", None)
        return F.normalize((output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1), dim=-1)

    def _size(self) -> int:
        size = dict(
            self.processor.crop_size if getattr(self.processor, "do_center_crop", False) else self.processor.size
        )
        return int(size.get("height") or size["shortest_edge"])


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Cosine (B,) of unit-length rows."""
    return (first * second).sum(dim=-1)
