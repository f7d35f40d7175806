"""The modules that pretraining trains: the domain encoder and the weight offsets, over a frozen backbone."""

from torch import nn

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import TokenizedPrompts
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.features import EncodedImages
from encoder.model.losses import Losses, NoiseSample, e4t_loss
from encoder.model.weight_offsets import OffsetPredictor, set_offsets
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe


class DomainModel(nn.Module):
    """The trained modules. The backbone is not a submodule, so neither the engine nor a checkpoint contains it.

    The attribute names ``encoder`` and ``offsets`` are the prefixes of parameter names in checkpoints.
    """

    def __init__(
        self, encoder: DomainEncoder, offsets: OffsetPredictor, backbone: Backbone, conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.encoder, self.offsets = encoder, offsets
        self._frozen = (backbone, conditioning)

    @classmethod
    def build(cls, config: PretrainConfig, backbone: Backbone, conditioning: Conditioning) -> "DomainModel":
        """Create the modules with their initial weights."""
        encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, config.hidden_width, config.encoder_inputs))
        return cls(encoder, OffsetPredictor.for_unet(backbone.unet, config.offset_type), backbone, conditioning)

    def forward(
        self, images: EncodedImages, prompts: TokenizedPrompts, noise: NoiseSample, regularization_weight: float
    ) -> Losses:
        """Return the losses of a micro-batch.

        The offsets are evaluated once and stay applied to the UNet, because gradient checkpointing needs them in the
        backward pass; the caller encloses both passes in ``offset_scope``.
        """
        backbone, conditioning = self._frozen
        set_offsets(backbone.unet, self.offsets())
        return e4t_loss(
            backbone,
            self.encoder,
            conditioning,
            class_tokens=images.class_tokens,
            prompts=prompts,
            regularization_weight=regularization_weight,
            **noise.loss_inputs(images.posterior),
        )


def sample_noise(recipe: Recipe, backbone: Backbone, seeds: list[int]) -> NoiseSample:
    """Draw noise, timesteps and prompt choices for samples with these seeds."""
    shape = backbone.latent_shape(recipe.data.resolution)
    return NoiseSample.from_seeds(seeds, shape, backbone.noise_scheduler.config.num_train_timesteps)
