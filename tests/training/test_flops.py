"""Operations by hand, and MFU in the rows."""

import numpy as np
import pytest

from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.presets import preset
from aillm_tf.training import flops
from aillm_tf.training.flops import block_flops, row_flops, step_flops

BERT = preset("bert-base", vocab_size=30522)


def test_a_layer_of_bert_base_by_hand():
    # per token: 4 projections of 768 x 768, 2 of 768 x 3072, scores and weighted sum over 128 keys
    by_hand = 128 * 2 * (4 * 768 * 768 + 2 * 768 * 3072 + 2 * 128 * 768)
    assert block_flops(BERT, 128) == by_hand


def test_a_model_is_two_operations_a_parameter_and_token_beside_attention():
    config = preset("gpt2", vocab_size=50257)
    matrices = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 50257 * 768
    attention = 12 * 4 * 1024 * 1024 * 768
    assert row_flops(config, 1024, predictions=1024) == 2 * matrices * 1024 + attention


def test_gated_layers_with_grouped_queries():
    config = preset("llama-small", vocab_size=100)
    by_hand = 2 * (768 * 768 + 2 * 768 * 256 + 768 * 768) + 3 * 2 * 768 * 2048 + 4 * 10 * 768
    assert block_flops(config, 10) == 10 * by_hand


def test_a_layer_of_a_decoder_also_looks_at_the_source():
    config = preset("t5-small", vocab_size=100)
    cross = 2 * (5 * 2 + 9 * 2) * 512 * 512 + 4 * 5 * 9 * 512  # query and output; key and value of the source; scores
    assert block_flops(config, 5, memory=9) - block_flops(config, 5) == cross
    assert row_flops(config, 9, 5) == 6 * block_flops(config, 9) + 6 * block_flops(config, 5, memory=9)


def test_an_lstm_layer():
    assert block_flops(preset("lstm", vocab_size=100), 3) == 3 * 2 * (512 + 512) * 4 * 512


def test_a_factorised_embedding_is_projected_and_predicts():
    config = TransformerConfig(vocab_size=100, hidden_size=8, embedding_size=4, layers=1, heads=2, ffn_size=16)
    assert row_flops(config, 6, predictions=2) - block_flops(config, 6) == 6 * 2 * 4 * 8 + 2 * 2 * 4 * 100


def test_a_step_of_masked_lm(make_masked_lm, reviews):
    model = make_masked_lm(rate=0.25)
    data = model.dataset([text for text, _ in reviews], batch_size=6, fixed_length=True)
    hidden, vocabulary = 16, model.config.vocab_size
    per_row = row_flops(model.config, 16) + 4 * 2 * (hidden * hidden + hidden * vocabulary)  # 4 of 16 are predicted
    assert step_flops(model, data, 0) == 3 * 6 * per_row


def test_a_step_of_a_classifier_counts_its_backbone(make_classifier, rows):
    model = make_classifier()
    data = model.dataset(rows, batch_size=40, fixed_length=True)
    assert step_flops(model, data, 0) == 3 * 40 * row_flops(model.config, 16)


def test_a_cpu_is_measured_and_says_so():
    flops.peak_flops.cache_clear()
    peak, source = flops.peak_flops("float32")
    assert 1e8 < peak < 1e14 and "measured" in source


def test_rows_state_speed_and_mfu(make_classifier, rows, tmp_path):
    from aillm_tf.training.callbacks import MetricsLog
    from aillm_tf.training.metrics_log import read_rows, training_facts
    from aillm_tf.training.optimizer import adamw

    model = make_classifier()
    model.compile(adamw(5e-3), spike_guard=9.0)
    data = model.dataset(rows, batch_size=40, fixed_length=True)
    model.fit(data, steps=3, callbacks=[MetricsLog(tmp_path / "metrics.jsonl", data=data)], verbose=0)
    found = [row for row in read_rows(tmp_path / "metrics.jsonl") if "epoch" not in row]
    last, peak = found[-1], flops.utilization_peak(model)
    # the tiny model's share of the peak is far below the four digits that a row keeps
    assert last["mfu"] == pytest.approx(step_flops(model, data, 2) / last["seconds"] / peak, abs=1e-4)
    assert last["tokens_per_second"] == pytest.approx(last["tokens"] / last["seconds"], rel=1e-3)
    assert last["skipped"] == 0 and np.isfinite(last["gradient_norm"])
    assert training_facts(found)["skipped_steps"] == 0
