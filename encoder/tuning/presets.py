"""Presets of the tuning loop for other personalization methods.

The values come from public recipes for Stable Diffusion 1.x: E4T's paper (arXiv 2302.12228); diffusers' example scripts
for Textual Inversion (arXiv 2208.01618) and DreamBooth (arXiv 2208.12242). Pivotal tuning first learns an embedding and
then the weights; it uses the steps and batch size of cloneofsimo/lora with DreamBooth's learning rate.
"""

from typing import Literal

from encoder.config import TuneConfig

MethodName = Literal["e4t", "textual-inversion", "dreambooth", "pivotal"]
"""Names of the methods, as ``--method`` takes them."""

METHODS: dict[MethodName, TuneConfig] = {
    "e4t": TuneConfig(),
    "textual-inversion": TuneConfig(
        token_type="embedding",
        trainable="none",
        steps=3000,
        batch_size=4,
        micro_batch_size=4,
        embedding_learning_rate=2.0e-3,  # 5e-4 scaled by the batch size
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
        embedding_learning_rate=0,  # the embedding is fixed: pass a Textual Inversion concept as init_concept
        trainable="unet",
        steps=1000,
        batch_size=4,
        micro_batch_size=4,
        learning_rate=5.0e-6,
    ),
}
"""Tuning settings by method. For ``e4t``, a release's own settings replace these."""
