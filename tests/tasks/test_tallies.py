"""What tasks count an example at a time scores as what they count in sums."""

import numpy as np
import pytest


def same_scores(task, data):
    """Asserts that the tallies of an evaluation score what `evaluate` does, and returns their names."""
    scores, rows = task.evaluate(data, verbose=0, return_rows=True)
    found = {name: value for tally in task.tallies(rows, data) for name, value in tally.score().items()}
    shared = {name: value for name, value in found.items() if name in scores}
    assert shared == pytest.approx({name: scores[name] for name in shared}, rel=1e-5)
    return set(shared)


@pytest.mark.slow
def test_the_windows_of_a_text_are_one_example():
    from aillm_tf.models.config import TransformerConfig
    from aillm_tf.tasks.causal_lm import CausalLM
    from aillm_tf.text.train import train_tokenizer

    texts = ["one two three four five six " * 5, "seven eight", "nine ten one two " * 3]
    tokenizer = train_tokenizer(texts, "bpe", 300, use="decoder")
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, layers=1, heads=2, ffn_size=32)
    task = CausalLM(config, tokenizer, max_length=8, dtype="float32")
    data = task.dataset(texts, stride=4, batch_size=4)
    assert same_scores(task, data) == {"loss", "accuracy", "perplexity", "bits_per_byte"}
    _, rows = task.evaluate(data, verbose=0, return_rows=True)
    (tally,) = task.tallies(rows, data)
    assert len(data) > len(tally) == 3
    np.testing.assert_allclose(tally.keys, [len(text) for text in texts])


OBJECTIVES = {"a": {"task": "MaskedLM"}, "b": {"task": "SentenceOrder"}}
CASES = [  # task, its options, use of its tokenizer, some of the scores
    ("MaskedLM", {}, "encoder", {"loss", "accuracy", "perplexity"}),
    ("ReplacedToken", {}, "encoder", {"loss", "accuracy", "generator_loss", "replaced_found"}),
    ("SentenceOrder", {}, "encoder", {"accuracy", "macro_f1", "matthews"}),
    ("MultiTask", {"objectives": OBJECTIVES}, "encoder", {"a_loss", "b_accuracy"}),
    ("Autoencoder", {}, "seq2seq", {"loss", "accuracy"}),
    ("Denoising", {}, "seq2seq", {"loss", "accuracy"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options", "use", "names"), CASES)
def test_every_task_scores_by_examples_what_it_scores_by_sums(kind, options, use, names):
    import aillm_tf as ai

    texts = ["one two three . four five six . " * 3, "seven one . two eight . three ten .", "nine . ten . one two ."]
    shape = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn_size": 32}
    shape |= {"decoder_layers": 1} if use == "seq2seq" else {"segments": 2}
    tokenizer = ai.train_tokenizer(texts * 4, "bpe" if use == "seq2seq" else "wordpiece", 300, use=use)
    config = ai.TransformerConfig(vocab_size=tokenizer.vocab_size, **shape)
    task = getattr(ai, kind)(config, tokenizer, max_length=24, dtype="float32", **options)
    assert same_scores(task, task.dataset(texts * 4, batch_size=5)) >= names


@pytest.mark.slow
def test_a_translator_scores_tokens_and_texts(make_toy, toy_pairs):
    from aillm_tf.tasks.translation import Translation

    task = make_toy(Translation)
    assert same_scores(task, task.dataset(toy_pairs(20), decode=None)) >= {"loss", "bleu", "chrf", "ter"}
