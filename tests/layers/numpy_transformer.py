"""The formulas of a Transformer in plain numpy, float64, head by head: what the layers are compared with."""

import numpy as np
from scipy.special import erf


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(
    x,
    weights,
    heads,
    kv_heads,
    width,
    memory=None,
    bias=0.0,
    *,
    scale=None,
    softcap=None,
    on_query=lambda q: q,
    on_key=lambda k: k,
):
    """softmax(Q K^T / sqrt(d) + bias) V for x (batch, query, hidden); `bias` broadcasts over heads and rows.

    `on_query` and `on_key` are what becomes of the queries and keys of one head, (batch, length, width).
    """
    memory = x if memory is None else memory
    kernel = weights["qkv/kernel"]
    add = weights.get("qkv/bias", np.zeros(kernel.shape[1]))
    batch, query, key = len(x), x.shape[1], memory.shape[1]
    bias = np.broadcast_to(bias, (batch, heads, query, key))
    scale = 1 / np.sqrt(width) if scale is None else scale
    context = np.zeros((batch, query, heads * width))
    for head in range(heads):
        kv = heads + head // (heads // kv_heads)
        q_at, k_at, v_at = (slice(i * width, (i + 1) * width) for i in (head, kv, kv + kv_heads))
        q = on_query(x @ kernel[:, q_at] + add[q_at])
        k, v = (memory @ kernel[:, at] + add[at] for at in (k_at, v_at))
        scores = q @ on_key(k).transpose(0, 2, 1) * scale
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        context[..., q_at] = softmax(scores + bias[:, head]) @ v
    return context @ weights["out/kernel"] + weights.get("out/bias", 0.0)


def layer_norm(x, weights, epsilon=1e-12):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weights["scale"] + weights["bias"]


def rms_norm(x, weights, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights["scale"]


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def feed_forward(x, weights, activation="gelu", gated=False):
    x = x @ weights["up/kernel"] + weights.get("up/bias", 0.0)
    if gated:
        gate, up = np.split(x, 2, axis=-1)
        x = ACTIVATIONS[activation](gate) * up
    else:
        x = ACTIVATIONS[activation](x)
    return x @ weights["down/kernel"] + weights.get("down/bias", 0.0)


def randomised(layer, seed=0, scale=0.4):
    """Gives every weight of a built layer, biases too, a random value; returns them by name in float64."""
    from aillm_tf.layers.naming import variables_by_name

    rng = np.random.default_rng(seed)
    for variable in variables_by_name(layer).values():
        variable.assign(rng.normal(0.0, scale, variable.shape))
    return {name: variable.numpy().astype("float64") for name, variable in variables_by_name(layer).items()}


def under(weights, name):
    """The weights of one part, by their names inside it."""
    return {key.removeprefix(name + "/"): value for key, value in weights.items() if key.startswith(name + "/")}
