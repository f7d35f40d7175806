"""The methods of personalisation, as settings of the one tuning loop: what learns, from where, under which losses.

Defaults are those of public recipes for Stable Diffusion 1.x: E4T's own (arXiv 2302.12228); for Textual Inversion
(arXiv 2208.01618) and DreamBooth (arXiv 2208.12242) those of diffusers' example scripts; for pivotal tuning, the
embedding first and then the weights around it, the steps and batch of cloneofsimo/lora with DreamBooth's learning rate.
"""

from typing import Literal

from encoder.config import TuneConfig

MethodName = Literal["e4t", "textual-inversion", "dreambooth", "pivotal"]

METHODS: dict[MethodName, TuneConfig] = {
    "e4t": TuneConfig(),
    "textual-inversion": TuneConfig(
        token_type="embedding",
        trainable="none",
        steps=3000,
        batch_size=4,
        micro_batch_size=4,
        embedding_learning_rate=2.0e-3,  # 5e-4, scaled by the batch
    ),
    "dreambooth": TuneConfig(
        token_type="rare_token",
        trainable="unet",
        steps=800,
        batch_size=1,
        learning_rate=5.0e-6,
        num_class_images=200,
        prior_loss_weight=1.0,
    ),
    "pivotal": TuneConfig(
        token_type="embedding",
        embedding_learning_rate=0,  # the pivot: what Textual Inversion has found, which is to be given
        trainable="unet",
        steps=1000,
        batch_size=4,
        micro_batch_size=4,
        learning_rate=5.0e-6,
    ),
}
