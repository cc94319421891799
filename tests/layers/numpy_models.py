"""Whole models in plain numpy, float64, from a TransformerConfig and its weights: what `aillm_tf.models` must equal.

Written token by token where that is plainer than a mask: nothing here is shared with the layers.
"""

import numpy as np
from numpy_transformer import attention, feed_forward, layer_norm, rms_norm, under


def norm(config, x, weights):
    if config.norm == "layer":
        return layer_norm(x, weights, config.norm_epsilon)
    return rms_norm(x, {"scale": weights["scale"] + config.norm_offset}, config.norm_epsilon)


def embed(config, ids, weights, table):
    x = table[ids] * config.embedding_scale
    length, size = x.shape[1:]
    if config.position == "learned":
        x = x + weights["position"][config.position_offset :][:length]
    if config.position == "sinusoidal":
        angle = np.arange(length)[:, None] / 10_000 ** (np.arange(0, size, 2) / size)
        x = x + np.concatenate([np.sin(angle), np.cos(angle)], -1)
    if "segment" in weights:
        x = x + weights["segment"][0]
    if config.embedding_norm:
        x = norm(config, x, under(weights, "norm"))
    if "projection/kernel" in weights:
        x = x @ weights["projection/kernel"] + weights["projection/bias"]
    return x


def relative_bias(config, table, length, causal):
    """T5's bias of every query and key, written out bucket by bucket; distances within the exact half only."""
    exact = config.relative_buckets // 2
    bias = np.zeros((1, config.heads, length, length))
    for query in range(length):
        for key in range(length):
            gap = abs(key - query)
            assert gap < exact // (1 if causal else 2)
            bias[0, :, query, key] = table[gap + (exact if key > query and not causal else 0) if gap else 0]
            if causal and key > query:
                bias[0, :, query, key] = table[0]
    return bias


def rotation(config, windowed):
    """Turns every pair of features of a head at position p by p times its frequency."""
    theta, scaling = config.rope_theta, config.rope_scaling
    if windowed and config.rope_theta_window is not None:
        theta, scaling = config.rope_theta_window, None
    half = config.head_width // 2
    frequency = np.array([1 / theta ** (2 * i / config.head_width) for i in range(half)])
    if scaling and scaling["rope_type"] == "linear":
        frequency /= scaling["factor"]
    if scaling and scaling["rope_type"] == "llama3":
        old = scaling["original_max_position_embeddings"]
        for i, turn in enumerate(frequency):
            wave = 2 * np.pi / turn
            if wave > old / scaling["low_freq_factor"]:
                frequency[i] = turn / scaling["factor"]
            elif wave > old / scaling["high_freq_factor"]:
                smooth = (old / wave - scaling["low_freq_factor"]) / (
                    scaling["high_freq_factor"] - scaling["low_freq_factor"]
                )
                frequency[i] = (1 - smooth) * turn / scaling["factor"] + smooth * turn

    def turned(x):  # (batch, length, width)
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * np.arange(x.shape[1])[:, None] * frequency)
        return np.concatenate([z.real, z.imag], -1)

    return turned


def block(config, x, weights, bias, turn, memory=None, memory_bias=0.0):
    sizes = (config.heads, config.key_value_heads, config.head_width)
    options = {"scale": config.attention_scale, "softcap": config.attention_softcap}

    def placed(x, label):
        scale = weights.get(f"attention/{label}/scale")
        return turn(x if scale is None else norm(config.replace(norm="rms"), x, {"scale": scale}))

    def self_attention(h):
        on = {"on_query": lambda q: placed(q, "query_norm"), "on_key": lambda k: placed(k, "key_norm")}
        return attention(h, under(weights, "attention"), *sizes, bias=bias, **on, **options)

    def cross_attention(h):
        return attention(h, under(weights, "cross_attention"), *sizes, memory, bias=memory_bias, **options)

    def ffn(h):
        return feed_forward(h, under(weights, "ffn"), config.activation, config.gated)

    sublayers = {"attention": self_attention, "cross_attention": cross_attention, "ffn": ffn}
    if memory is None:
        del sublayers["cross_attention"]
    for name, sublayer in sublayers.items():
        if config.norm_placement == "post":
            x = norm(config, x + sublayer(x), under(weights, f"{name}_norm"))
            continue
        y = sublayer(norm(config, x, under(weights, f"{name}_norm")))
        x = x + (y if config.norm_placement == "pre" else norm(config, y, under(weights, f"{name}_post_norm")))
    return x


def stack(config, x, weights, layers, causal, valid=None, memory=None, memory_bias=0.0):
    length = x.shape[1]
    shared = np.zeros((1, config.heads, length, length))
    if config.position == "relative":
        shared = relative_bias(config, weights["relative"], length, causal)
    if valid is not None:
        shared = np.where(valid[:, None, None, :], shared, -np.inf)
    for i in range(layers):
        windowed = config.window is not None and i not in config.global_layers
        bias = shared.copy()
        for query in range(length):
            for key in range(length):
                if (causal and key > query) or (windowed and abs(query - key) >= config.window):
                    bias[:, :, query, key] = -np.inf
        turn = rotation(config, windowed) if config.position == "rotary" else lambda head: head
        part = under(weights, "layer_0" if config.shared_layers else f"layer_{i}")
        x = block(config, x, part, bias, turn, memory, memory_bias)
    return x if config.norm_placement == "post" else norm(config, x, under(weights, "final_norm"))


def head(config, x, weights, table):
    scores = x @ weights.get("head/kernel", table.T) * config.logit_scale + weights.get("head/bias", 0.0)
    return scores if config.logit_softcap is None else config.logit_softcap * np.tanh(scores / config.logit_softcap)


def encoder(config, weights, ids, valid=None):
    """Hidden states of an Encoder or Decoder."""
    x = embed(config, ids, under(weights, "embeddings"), weights["embeddings/token"])
    return stack(config, x, under(weights, "encoder"), config.layers, config.causal, valid)


def decoder(config, weights, ids):
    """Scores of a Decoder."""
    hidden = encoder(config.replace(causal=True), weights, ids)
    return head(config, hidden, weights, weights["embeddings/token"])


def encoder_decoder(config, weights, ids, target, valid):
    """Scores of an EncoderDecoder."""
    memory = encoder(config, weights, ids, valid)
    own = under(weights, "decoder_embeddings")
    table = own.get("token", weights["embeddings/token"])
    x = embed(config, target, own, table)
    bias = np.where(valid, 0.0, -np.inf)[:, None, None, :]
    x = stack(config, x, under(weights, "decoder"), config.decoder_layers, True, memory=memory, memory_bias=bias)
    return head(config, x, weights, table)
