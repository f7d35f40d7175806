"""Train a CLIP tokenizer in which every word of the captions is one token; other text falls back to bytes."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str], text_length: int) -> CLIPTokenizer:
    """Train byte-pair merges until every word of the captions is a single token."""
    words = sorted(
        {word for caption in captions for word in caption.lower().replace(",", " ").replace("-", " ").split()}
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=100_000,
            min_frequency=0,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [
        *alphabet,
        *(f"{byte}</w>" for byte in alphabet),
        *("".join(pair) for pair in merges),
        BOS_TOKEN,
        EOS_TOKEN,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=text_length, pad_token=EOS_TOKEN)
