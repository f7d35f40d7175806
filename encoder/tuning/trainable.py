"""What tuning trains, and what it leaves: the concept."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import Concept, restore
from encoder.concepts.concept_tokens import Word
from encoder.concepts.weight_deltas import Changes, Rounding
from encoder.config import TuneConfig
from encoder.model.registry import Encoder
from encoder.tuning.lora import Adapters
from encoder.tuning.optimizer import Updates


def parts_of(backbone: Backbone, encoder: Encoder) -> dict[str, nn.Module]:
    """The modules that a concept can change, by the names that it gives them."""
    names = ("text_encoder", "text_encoder_2")
    texts = dict(zip(names, backbone.text.encoders, strict=False))
    return {"unet": backbone.unet, "encoder": encoder, **texts}


class Trained:
    """The parameters under tuning: they learn inside the ``with`` block and are what they were before after it."""

    def __init__(self, backbone: Backbone, encoder: Encoder, config: TuneConfig, embedding: Tensor) -> None:
        """``embedding`` (d,) is where a learned word starts."""
        self.parts, self._config = parts_of(backbone, encoder), config
        self.embedding = nn.Parameter(embedding.clone(), requires_grad=False)
        self._chosen = {part: _chosen(part, module, config) for part, module in self.parts.items()}
        linears = _attention_linears(backbone.unet) if config.train == "lora" else {}
        self._adapters = Adapters(linears, config.lora_rank, config.seed)
        self.weights: list[Tensor] = [weight for named in self._chosen.values() for weight in named.values()]
        self.factors: list[Tensor] = [factor for change in self._adapters.changes.values() for factor in change]
        rates = dict.fromkeys(self.weights, config.learning_rate)
        rates |= dict.fromkeys(self.factors, config.lora_learning_rate)
        if config.word == "embedding" and config.embedding_learning_rate:
            rates[self.embedding] = config.embedding_learning_rate
        self._updates = Updates(rates, config.optimizer)
        self._before = {part: _copies(named) for part, named in self._chosen.items()}

    def __enter__(self) -> "Trained":
        with ExitStack() as stack:
            stack.callback(self._restore)
            stack.enter_context(self._adapters)
            stack.enter_context(self._updates)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _restore(self) -> None:
        for part, before in self._before.items():
            restore(self.parts[part], before)

    def learn(self, loss: Tensor, *, step: bool) -> None:
        """Add the loss's gradients, and step with what has gathered if this is the last of a batch."""
        self._updates.backward(loss, step=step)

    def concept(self, word: Word, release: str, settings: dict[str, Any]) -> Concept:
        """What has been learned so far; its settings say how far rounding is from that, relatively."""
        rounding = Rounding(self._config.stored_bits)
        changes: dict[str, Changes] = {
            part: {name: rounding(self._learned(part, name)) for name in named}
            for part, named in self._chosen.items()
            if named
        }
        if self._adapters.changes:
            changes["unet"] = {f"{name}.weight": low_rank.half() for name, low_rank in self._adapters.changes.items()}
        return Concept(
            changes=changes,
            word=word,
            release=release,
            settings=settings | {"stored_error": rounding.error},
        )

    def _learned(self, part: str, name: str) -> Tensor:
        return self._updates[self._chosen[part][name]].value.cpu() - self._before[part][name].float()


def _chosen(part: str, module: nn.Module, config: TuneConfig) -> dict[str, nn.Parameter]:
    """The weights of a part that learn themselves."""
    return {name: parameter for name, parameter in module.named_parameters() if _learns(part, name, config)}


def _learns(part: str, name: str, config: TuneConfig) -> bool:
    if part == "encoder":
        return config.word == "encoder"
    if part == "unet":
        return config.train == "unet" or (config.train == "attention" and ".attn" in name)
    return config.text_encoder and "embedding" not in name  # rows of words that no prompt holds get no gradient


def _attention_linears(unet: nn.Module) -> dict[str, nn.Linear]:
    """The projections of every attention to queries, keys, values and back."""
    return {name: module for name, module in unet.named_modules() if ".attn" in name and isinstance(module, nn.Linear)}


def _copies(named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """In the host's memory: the device needs its own for the steps."""
    with torch.no_grad():
        return {name: parameter.to("cpu", copy=True) for name, parameter in named.items()}
