from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.export import saved_model
from aillm_tf.export.reload import answer
from aillm_tf.export.saved_model import ExportError, export
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
TEXTS = ["The film was good.", "酒店差!", ""]


def test_the_folder_holds_what_tf_serving_wants(exported):
    files = {str(path.relative_to(exported[1]["path"])) for path in Path(exported[1]["path"]).rglob("*")}
    assert files >= {
        "saved_model.pb",
        "variables/variables.index",
        "assets/labels.txt",
        "assets.extra/tf_serving_warmup_requests",
        "serving/run.sh",
        "serving/models.config",
        "serving/README.md",
        "serving/client.py",
        "serving/local.py",
        "serving/model.json",
    }


def test_nothing_but_the_export_is_left_beside_it(exported):
    assert [path.name for path in Path(exported[1]["path"]).parent.iterdir()] == ["1"]


def stored_weights(folder: str | Path) -> list[tuple]:
    stored = tf.train.list_variables(f"{folder}/variables/variables")
    return sorted(tuple(shape) for name, shape in stored if name.startswith("weights"))


def test_each_weight_is_stored_once(exported):
    task, facts = exported
    assert stored_weights(facts["path"]) == sorted(tuple(weight.shape) for weight in task.weights)


class TwoHeads(TextClassifier):
    """A classifier with a second head, which answers do not read."""

    def build_heads(self):
        super().build_heads()
        self.other = keras.layers.Dense(7)

    def head_shapes(self):
        return {**super().head_shapes(), "other": (None, 1000)}


def test_weights_that_answers_do_not_read_stay_at_home(exported, tmp_path):
    one = exported[0]
    task = TwoHeads(one.config, one.tokenizer, labels=one.labels, max_length=one.max_length)
    saved_model._save(task, task.labels, tmp_path)
    assert stored_weights(tmp_path) == stored_weights(exported[1]["path"])


def test_the_facts_say_the_bytes_of_weights_and_folder(exported):
    task, facts = exported
    assert facts["weight_bytes"] == 4 * sum(np.prod(weight.shape) for weight in task.weights)
    assert facts["bytes"] == sum(p.stat().st_size for p in Path(facts["path"]).rglob("*") if p.is_file())


def test_the_facts_say_what_was_compared(exported):
    assert exported[1]["checked"] == len(saved_model.CHECK_TEXTS)
    assert exported[1]["max_difference"] <= saved_model.TOLERANCE


def test_strings_in_answers_out(exported):
    task, facts = exported
    outputs = answer(facts["path"], {"text": TEXTS})
    for got, expected in zip(task.read_answers(outputs), task.answer(TEXTS), strict=True):
        assert got["label"] == expected["label"]
        assert got["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_the_tokens_signature_takes_ids(exported):
    task, facts = exported
    encoded = task.tokenizer.encode(TEXTS[:1])
    outputs = answer(facts["path"], {"token_ids": [encoded.ids], "segment_ids": [encoded.segment_ids]}, "tokens")
    expected = task.answer(TEXTS[:1])[0]["probabilities"].values()
    np.testing.assert_allclose(outputs["probabilities"], [list(expected)], atol=1e-6)


def test_labels_are_an_asset_one_a_line(exported):
    assert Path(exported[1]["path"], "assets", "labels.txt").read_text(encoding="utf-8") == "negative\npositive\n"


def test_pairs_of_texts(make_task, tmp_path, same_process):
    task = make_task(pair=True, labels=["no", "yes"])
    export(task, tmp_path / "1", [("The film", "was good"), ("", "酒店")])
    outputs = answer(tmp_path / "1", {"text": ["The film", "was good"], "pair": ["was good", "The film"]})
    expected = task.answer([("The film", "was good"), ("was good", "The film")])
    np.testing.assert_allclose(outputs["score"], [row["score"] for row in expected], atol=1e-6)


def test_many_labels_at_once(make_task, tmp_path, same_process):
    task = make_task(multi_label=True, labels=["快", "好", "贵"])
    export(task, tmp_path / "1", TEXTS)
    outputs = answer(tmp_path / "1", {"text": TEXTS})
    expected = [list(row["probabilities"].values()) for row in task.answer(TEXTS)]
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize("family", ["roberta", "t5"])
def test_strings_are_read_by_the_tokenizer_of_the_family(family, tmp_path):
    tokenizer = Tokenizer.from_folder(GOLDEN / family)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        layers=2,
        heads=2,
        ffn_size=32,
        max_length=32,
        segments=0,
        position_offset=2,
        initializer_range=0.5,
    )
    task = TextClassifier(config, tokenizer, labels=["bad", "good"], max_length=32, dtype="float32")
    assert export(task, tmp_path / "1")["max_difference"] <= saved_model.TOLERANCE


def test_masked_words_are_filled_in(exported, tmp_path, same_process):
    task = MaskedLM(exported[0].config, exported[0].tokenizer, max_length=32)
    export(task, tmp_path / "1", ["the film was [MASK]", "no gap"])
    outputs = answer(tmp_path / "1", {"text": ["the [MASK]"]})
    expected = task.answer(["the [MASK]"])[0]["masks"][0]
    assert [token.decode() for token in outputs["tokens"][0, 2]] == [guess["token"] for guess in expected]


def test_a_model_made_for_two_replicas_stores_each_weight_once(make_task, tmp_path, same_process):
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(devices) < 2:
        pytest.skip("this process has one logical CPU device")
    with tf.distribute.MirroredStrategy(devices[:2]).scope():
        task = make_task()
    export(task, tmp_path / "1", TEXTS)
    assert stored_weights(tmp_path / "1") == sorted(tuple(weight.shape) for weight in task.weights)


def test_a_model_that_trains_in_bfloat16_answers_in_float32(make_task, tmp_path):
    task = make_task(dtype="mixed_bfloat16")
    saved_model._save(task, task.labels, tmp_path)
    expected = make_task(dtype="float32").answer(TEXTS)
    got = answer(tmp_path, {"text": TEXTS})
    np.testing.assert_allclose(got["score"], [row["score"] for row in expected], atol=1e-6)


def test_a_folder_with_something_in_it_is_not_overwritten(make_task, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="next version number"):
        export(make_task(), tmp_path / "1")
    assert (tmp_path / "1" / "notes.txt").read_text() == "keep"


def test_a_bucket_is_not_a_folder(make_task):
    with pytest.raises(ValueError, match="local folder"):
        export(make_task(), "gs://bucket/export/1")


def test_no_texts_to_check_with_is_an_error(make_task, tmp_path):
    with pytest.raises(ValueError, match="no texts"):
        export(make_task(), tmp_path / "1", check_texts=[])


def test_a_pair_where_one_text_is_read_is_an_error(make_task, tmp_path):
    with pytest.raises(ValueError, match="text 0 has 2 parts"):
        export(make_task(), tmp_path / "1", check_texts=[("a", "b")])


def test_a_python_call_is_refused_by_name_and_place_and_leaves_nothing(make_task, tmp_path, same_process):
    task = make_task()
    numbers = task.answer_tensors

    def through_python(features):
        probabilities = numbers(features)["probabilities"]
        return {"probabilities": tf.ensure_shape(tf.py_function(lambda p: p, [probabilities], tf.float32), (None, 2))}

    task.answer_tensors = through_python
    with pytest.raises(ExportError, match=r"EagerPyFunc at node '.*' of function '.*'"):
        export(task, tmp_path / "1", TEXTS)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_differs_is_named_with_its_text(make_task, exported, same_process):
    task = make_task()
    task.classifier.bias.assign([0.0, 0.01])
    with pytest.raises(ExportError, match=r"text 0, 'The film was good\.'.*task\.answer gives"):
        saved_model._check(task, Path(exported[1]["path"]), {"text": TEXTS})


def test_a_label_string_that_differs_is_named(make_task, tmp_path, same_process):
    task = make_task()
    outputs = task.serving_outputs
    task.serving_outputs = lambda tensors: {
        **outputs(tensors),
        "label": tf.fill(tf.shape(tensors["probabilities"])[:1], "?"),
    }
    saved_model._save(task, task.labels, tmp_path)
    with pytest.raises(ExportError, match=r"'label' is '\?', task\.answer gives"):
        saved_model._check(task, tmp_path, {"text": TEXTS})


def test_a_text_that_the_graph_tokenizes_otherwise_is_named(exported, same_process, monkeypatch):
    task, facts = exported
    report = saved_model.fresh_process

    def other_ids(folder, requests):
        texts = [text.replace("good", "bad") for text in requests["serving_default"]["text"]]
        return report(folder, {**requests, "serving_default": {"text": texts}})

    monkeypatch.setattr(saved_model, "fresh_process", other_ids)
    with pytest.raises(ExportError, match=r"serving_default .* text 0, 'The film was good\.'.*text/graph\.py"):
        saved_model._check(task, Path(facts["path"]), {"text": TEXTS})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.5 + 1.1e-4])
def test_compare_flags_numbers_that_are_off(bad):
    [(_, _, _, difference)] = saved_model._compare({"score": 0.5}, {"score": bad})
    assert not difference <= saved_model.TOLERANCE


@pytest.mark.parametrize("bad", [{"score": 0.5}, {"label": "b", "score": 0.5}, [], None])
def test_compare_flags_another_shape(bad):
    leaves = list(saved_model._compare({"label": "a", "score": 0.5}, bad))
    assert max(difference for *_, difference in leaves) == float("inf")


def test_an_export_that_does_not_load_says_why(exported, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(Path(exported[1]["path"], "saved_model.pb").read_bytes())
    with pytest.raises(ExportError, match="variables"):
        saved_model.fresh_process(tmp_path, {})


def test_the_fresh_process_does_not_import_this_package(exported, tmp_path, monkeypatch):
    (tmp_path / "aillm_tf.py").write_text("raise ImportError('aillm_tf was imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = saved_model.fresh_process(Path(exported[1]["path"]), {"serving_default": {"text": TEXTS}})
    assert len(report["answers"]["serving_default"]["label"]) == len(TEXTS)
