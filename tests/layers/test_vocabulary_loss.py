"""vocabulary_loss: values and gradients of the plain formula, and memory of one chunk."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers import fast
from aillm_tf.layers.vocabulary_loss import row_losses, vocabulary_loss

TOKENS, FEATURES, VOCABULARY = 50, 6, 11
RNG = np.random.default_rng(5)
HIDDEN = RNG.normal(size=(TOKENS, FEATURES)).astype("float32")
TARGETS = RNG.integers(0, VOCABULARY, TOKENS).astype("int32")
WEIGHTS = RNG.choice([0.0, 0.5, 1.0], TOKENS).astype("float32")


@pytest.fixture(scope="module")
def head():
    """A tied table and a bias."""
    table = keras.Variable(RNG.normal(size=(VOCABULARY, FEATURES)).astype("float32"))
    bias = keras.Variable(RNG.normal(size=VOCABULARY).astype("float32"))
    return table, bias, lambda h: keras.ops.matmul(h, keras.ops.transpose(table)) + bias


def formula(hidden, table, bias, smoothing, z):
    """Loss and its gradients for hidden, table and bias, in numpy and float64."""
    scores = hidden.astype("float64") @ table.T + bias
    normalizer = np.log(np.exp(scores).sum(-1))
    wanted = (1 - smoothing) * np.eye(VOCABULARY)[TARGETS] + smoothing / VOCABULARY
    losses = normalizer - (wanted * scores).sum(-1) + z * normalizer**2
    d = np.exp(scores - normalizer[:, None]) * (1 + 2 * z * normalizer)[:, None] - wanted
    d *= WEIGHTS[:, None]
    hits = (scores.argmax(-1) == TARGETS) @ WEIGHTS
    return losses @ WEIGHTS, hits, (d @ table, d.T @ hidden, d.sum(0))


def computed(head, *, chunk, smoothing=0.0, z=0.0, static=True, fused=False, jit=False):
    """The sums and the gradients for hidden, table and bias, in a graph; the loss is doubled on its way."""
    table, bias, logits = head
    rows = TOKENS if static else None

    @tf.function(
        input_signature=[
            tf.TensorSpec((rows, FEATURES)),
            tf.TensorSpec((rows,), tf.int32),
            tf.TensorSpec((rows,), tf.float32),
        ],
        autograph=False,
        jit_compile=jit,
    )
    def run(hidden, targets, weights):
        with fast.fused(fused), tf.GradientTape() as tape:
            tape.watch(hidden)
            sums = vocabulary_loss(hidden, logits, targets, weights, label_smoothing=smoothing, z_loss=z, chunk=chunk)
            loss = 2.0 * sums["loss"]
        with fast.fused(fused):
            return sums, tape.gradient(loss, [hidden, table.value, bias.value])

    return run, *run(HIDDEN, TARGETS, WEIGHTS)


def check(head, sums, gradients, smoothing=0.0, z=0.0):
    loss, hits, expected = formula(HIDDEN, head[0].numpy(), head[1].numpy(), smoothing, z)
    np.testing.assert_allclose(sums["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(sums["weight"], WEIGHTS.sum(), rtol=1e-6)
    np.testing.assert_allclose(sums["hits"], hits, rtol=1e-6)
    for ours, formulas in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(ours), 2.0 * formulas, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [7, 25, 50, None])
def test_chunks_give_the_loss_and_gradients_of_the_formula(chunk, head):
    _, sums, gradients = computed(head, chunk=chunk)
    check(head, sums, gradients)


@pytest.mark.parametrize("fused", [False, True])
def test_label_smoothing_and_z_loss_are_those_of_the_formula(fused, head):
    _, sums, gradients = computed(head, chunk=16, smoothing=0.1, z=0.02, fused=fused)
    check(head, sums, gradients, 0.1, 0.02)


@pytest.mark.parametrize("chunk", [16, 64])
def test_an_unknown_number_of_tokens_gives_the_same(chunk, head):
    _, sums, gradients = computed(head, chunk=chunk, static=False)
    check(head, sums, gradients)


def test_it_compiles_with_xla(head):
    _, sums, gradients = computed(head, chunk=16, jit=True)
    check(head, sums, gradients)


def test_the_twin_of_other_backends_gives_the_same(head):
    table, bias, logits = head

    def part(hidden, targets, weights):
        sums = vocabulary_loss(hidden, logits, targets, weights)
        return keras.ops.stack([sums["loss"], sums["hits"]])

    tensors = tuple(map(tf.constant, (HIDDEN, TARGETS, WEIGHTS)))
    found = []
    for twin in (False, True):
        with pytest.MonkeyPatch.context() as patch, tf.GradientTape() as tape:
            if twin:
                patch.setattr(keras.backend, "backend", lambda: "another")
            tape.watch(tensors[0])
            total = fast.sum_of_chunks(part, tensors, 25, 2, tf.constant([1.0, 2.0]))
        gradients = tape.gradient(total, [tensors[0], table.value, bias.value])
        found.append([total.numpy(), *(tf.convert_to_tensor(g).numpy() for g in gradients)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def graph_shapes(graph) -> set[tuple]:
    """The shapes of all tensors of a graph and of the functions it calls."""
    shapes = {tuple(t.shape) for op in graph.get_operations() for t in op.outputs if t.shape.rank is not None}
    for name in {
        attribute.func.name
        for op in graph.get_operations()
        for attribute in op.node_def.attr.values()
        if attribute.WhichOneof("value") == "func"
    }:
        inner = graph._get_function(name)
        if inner is not None:
            shapes |= graph_shapes(inner.graph if hasattr(inner, "graph") else tf.Graph())
    return shapes


def test_the_scores_of_all_tokens_never_exist(head):
    run, *_ = computed(head, chunk=16)
    shapes = graph_shapes(run.get_concrete_function().graph)
    assert (16, VOCABULARY) in shapes
    largest = max(shape[0] for shape in shapes if len(shape) == 2 and shape[1] == VOCABULARY and shape[0] is not None)
    assert largest == 16


def test_leading_axes_do_not_matter(head):
    sums = vocabulary_loss(HIDDEN.reshape(5, 10, -1), head[2], TARGETS.reshape(5, 10), WEIGHTS.reshape(5, 10), chunk=16)
    assert float(sums["loss"]) == pytest.approx(formula(HIDDEN, head[0].numpy(), head[1].numpy(), 0.0, 0.0)[0], 1e-5)


def test_two_replicas_give_the_gradient_of_the_whole(two_replicas):
    with two_replicas.scope():
        table = keras.Variable(np.ones((VOCABULARY, FEATURES), "float32") * 0.1)
    parts = iter([slice(None, 25), slice(25, None)])
    values = two_replicas.experimental_distribute_values_from_function(
        lambda _: (lambda p: (HIDDEN[p], TARGETS[p], WEIGHTS[p]))(next(parts))
    )

    def of_replica(hidden, targets, weights):
        with tf.GradientTape() as tape:
            sums = vocabulary_loss(
                hidden, lambda h: keras.ops.matmul(h, keras.ops.transpose(table)), targets, weights, chunk=8
            )
        gradient = tape.gradient(sums["loss"], table.value)
        return tf.distribute.get_replica_context().all_reduce("sum", tf.convert_to_tensor(gradient))

    found = tf.function(lambda: two_replicas.run(of_replica, args=values), autograph=False)()
    *_, expected = formula(HIDDEN, table.numpy(), np.zeros(VOCABULARY), 0.0, 0.0)
    np.testing.assert_allclose(two_replicas.experimental_local_results(found)[0], expected[1], atol=1e-5)


def test_losses_of_rows_are_summed_in_chunks(head):
    """Chunks of 7 tokens end within rows of 10; the gradient is of a function of the rows' sums."""
    table, _, logits = head

    @tf.function(autograph=False)
    def run(chunk):
        hidden = tf.constant(HIDDEN.reshape(5, 10, FEATURES))
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            losses = row_losses(hidden, logits, TARGETS.reshape(5, 10), WEIGHTS.reshape(5, 10), chunk=chunk)
            value = tf.reduce_sum(tf.square(losses))
        return losses, tape.gradient(value, [hidden, table.value])

    (losses, gradients), (whole, expected) = run(7), run(TOKENS)
    scores = HIDDEN @ table.numpy().T + head[1].numpy()
    of_tokens = np.log(np.exp(scores).sum(-1)) - scores[np.arange(TOKENS), TARGETS]
    np.testing.assert_allclose(losses, (of_tokens * WEIGHTS).reshape(5, 10).sum(1), rtol=1e-4)
    np.testing.assert_allclose(whole, losses, rtol=1e-5)
    for got, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
