"""Presets: as many parameters as the published models."""

import math

import pytest

from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.decoder import Decoder
from aillm_tf.models.encoder import Encoder
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.models.presets import PRESETS, preset

# Rows of the token table and parameters, by transformers, without BERT's pooler and with BART's final_logits_bias.
PUBLISHED = {
    "bert-base": (Encoder, 30522, 109_482_240 - 590_592),
    "bert-large": (Encoder, 30522, 335_141_888 - 1_049_600),
    "gpt2": (Decoder, 50257, 124_439_808),
    "t5-small": (EncoderDecoder, 32128, 60_506_624),
    "bart-base": (EncoderDecoder, 50265, 139_420_416 + 50_265),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name):
    kind, vocabulary, published = PUBLISHED[name]
    config = preset(name, vocab_size=1)
    # one layer and one token are built, the others are as large
    model = kind(config.replace(layers=1, decoder_layers=min(1, config.decoder_layers)))
    model.build()
    count = 0
    for path, variable in variables_by_name(model).items():
        times = config.decoder_layers if path.startswith("decoder/layer_0") else 1
        times = config.layers if path.startswith("encoder/layer_0") else times
        times = vocabulary if path in ("embeddings/token", "head/bias") else times
        count += times * math.prod(variable.shape)
    assert count == published


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_config_that_fits_together(name):
    config = preset(name, vocab_size=100)
    assert config.heads * config.head_width == config.hidden_size


def test_a_preset_may_be_changed():
    assert preset("gpt2", vocab_size=100, layers=2).layers == 2


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'gpt3': choose from tiny, small"):
        preset("gpt3", vocab_size=100)
