"""Parameters that tuning trains, and the concept that is made from them."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import Concept, restore
from encoder.concepts.concept_tokens import ConceptToken
from encoder.concepts.weight_deltas import DeltaQuantizer, WeightDeltas
from encoder.config import TuneConfig
from encoder.model.registry import AnyDomainEncoder
from encoder.tuning.lora import LoraInjector
from encoder.tuning.optimizer import InBackwardOptimizer


def concept_modules(backbone: Backbone, encoder: AnyDomainEncoder) -> dict[str, nn.Module]:
    """Return the modules that a concept can hold weight deltas of, by the names that it uses."""
    names = ("text_encoder", "text_encoder_2")
    text_encoders = dict(zip(names, backbone.text_encoders.encoders, strict=False))
    return {"unet": backbone.unet, "encoder": encoder, **text_encoders}


class TrainableParameters:
    """The parameters that tuning trains. They are trainable inside the ``with`` block and restored after it."""

    def __init__(
        self, backbone: Backbone, encoder: AnyDomainEncoder, config: TuneConfig, token_embedding: Tensor
    ) -> None:
        """Select the parameters by ``config``; ``token_embedding`` (d,) is the initial value of a learned token."""
        self.modules, self._config = concept_modules(backbone, encoder), config
        self.token_embedding = nn.Parameter(token_embedding.clone(), requires_grad=False)
        self._selected = {part: _select_parameters(part, module, config) for part, module in self.modules.items()}
        linears = _attention_linears(backbone.unet) if config.trainable == "lora" else {}
        self._lora = LoraInjector(linears, config.lora_rank, config.seed)
        self.weights: list[Tensor] = [weight for named in self._selected.values() for weight in named.values()]
        self.lora_factors: list[Tensor] = [factor for delta in self._lora.deltas.values() for factor in delta]
        learning_rates = dict.fromkeys(self.weights, config.learning_rate)
        learning_rates |= dict.fromkeys(self.lora_factors, config.lora_learning_rate)
        if config.token_type == "embedding" and config.embedding_learning_rate:
            learning_rates[self.token_embedding] = config.embedding_learning_rate
        self._optimizer = InBackwardOptimizer(learning_rates, config.optimizer)
        self._original_values = {part: _cpu_copies(named) for part, named in self._selected.items()}

    def __enter__(self) -> "TrainableParameters":
        with ExitStack() as stack:
            stack.callback(self._restore)
            stack.enter_context(self._lora)
            stack.enter_context(self._optimizer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _restore(self) -> None:
        for part, original_values in self._original_values.items():
            restore(self.modules[part], original_values)

    def accumulate(self, loss: Tensor, *, step: bool) -> None:
        """Accumulate gradients of ``loss``; with ``step`` (the batch's last micro-batch), update the parameters."""
        self._optimizer.backward(loss, step=step)

    def concept(self, token: ConceptToken, release: str, settings: dict[str, Any]) -> Concept:
        """Return the current state as a concept; its settings record the relative rounding error as ``delta_error``."""
        quantizer = DeltaQuantizer(self._config.delta_bits)
        weight_deltas: dict[str, WeightDeltas] = {
            part: {name: quantizer(self._weight_delta(part, name)) for name in named}
            for part, named in self._selected.items()
            if named
        }
        if self._lora.deltas:
            weight_deltas["unet"] = {f"{name}.weight": delta.to_fp16_cpu() for name, delta in self._lora.deltas.items()}
        return Concept(
            weight_deltas=weight_deltas,
            token=token,
            release=release,
            settings=settings | {"delta_error": quantizer.relative_error},
        )

    def _weight_delta(self, part: str, name: str) -> Tensor:
        return self._optimizer[self._selected[part][name]].fp32_value.cpu() - self._original_values[part][name].float()


def _select_parameters(part: str, module: nn.Module, config: TuneConfig) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that are trained directly, not through LoRA factors."""
    return {name: parameter for name, parameter in module.named_parameters() if _is_trainable(part, name, config)}


def _is_trainable(part: str, name: str, config: TuneConfig) -> bool:
    if part == "encoder":
        return config.token_type == "encoder"
    if part == "unet":
        return config.trainable == "unet" or (config.trainable == "attention" and ".attn" in name)
    # embedding matrices stay fixed: only the rows of the prompt's tokens would get a gradient
    return config.train_text_encoder and "embedding" not in name


def _attention_linears(unet: nn.Module) -> dict[str, nn.Linear]:
    """Return the query, key, value and output projections of every attention layer, by name."""
    return {name: module for name, module in unet.named_modules() if ".attn" in name and isinstance(module, nn.Linear)}


def _cpu_copies(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copy parameters to CPU memory, because tuning needs the device's."""
    with torch.no_grad():
        return {name: parameter.to("cpu", copy=True) for name, parameter in parameters.items()}
