"""aillm convert and aillm inspect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aillm_tf.cli import main
from aillm_tf.weights import convert as module
from aillm_tf.weights.convert import convert
from aillm_tf.weights.inspect import describe
from aillm_tf.weights.loading import load_pretrained

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
FAMILIES = [
    "bert_classifier",
    "roberta/masked_lm",
    "albert/model",
    "electra/discriminator",
    "gpt2",
    "qwen3",
    "qwen2_classifier",
]
FAMILIES += ["qwen2_classifier", "gemma2", "t5_v1_1", "bart", "marian"]


@pytest.mark.parametrize("name", FAMILIES)
def test_huggingface_to_huggingface_is_bit_equal(name, tmp_path):
    converted = convert(GOLDEN / name, tmp_path / "out", progress=False)
    theirs, ours = load_file(GOLDEN / name / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert [tensor for tensor in theirs if theirs[tensor].tobytes() != ours[tensor].tobytes()] == []
    assert (converted.changed, converted.left_out) == (False, ())
    assert converted.difference < 1e-6


def test_there_and_back_through_our_layout_is_bit_equal(tmp_path):
    convert(GOLDEN / "bert_classifier", tmp_path / "ours", to="aillm", progress=False)
    convert(tmp_path / "ours", tmp_path / "theirs", progress=False)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (GOLDEN / "bert_classifier", tmp_path / "theirs")
    )
    assert {name: array.tobytes() for name, array in before.items()} == {n: a.tobytes() for n, a in after.items()}
    assert load_pretrained(tmp_path / "theirs").labels == ["negative", "neutral", "positive"]


def test_type_that_changes_is_said_and_the_difference_of_outputs_told(tmp_path):
    converted = convert(GOLDEN / "qwen3", tmp_path / "out", dtype="bfloat16", progress=False)
    assert (converted.changed, converted.dtype) == (True, "bfloat16")
    assert 0 < converted.difference < 1


def test_half_precision_stays_what_it_is(tmp_path):
    convert(GOLDEN / "qwen3", tmp_path / "half", dtype="float16", progress=False)
    converted = convert(tmp_path / "half", tmp_path / "again", progress=False)
    assert (converted.changed, converted.dtype) == (False, "float16")


def test_special_tokens_and_decoding_settings_stay(tmp_path):
    convert(GOLDEN / "bart", tmp_path / "out", progress=False)
    before, after = (load_pretrained(folder) for folder in (GOLDEN / "bart", tmp_path / "out"))
    assert after.settings == before.settings
    assert after.generation == before.generation


def test_folder_with_files_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="new or empty folder"):
        convert(GOLDEN / "qwen3", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("what", ["_compare_tensors", "_compare_outputs"])
def test_result_that_differs_is_an_error_and_removed(tmp_path, monkeypatch, what):
    if what == "_compare_tensors":
        original = module.open_source

        def spoilt(source, **options):
            found = original(source, **options)
            if str(source).endswith("out"):
                object.__setattr__(found, "read", lambda name, dtype: np.zeros(found.shapes[name], dtype))
            return found

        monkeypatch.setattr(module, "open_source", spoilt)
    else:
        monkeypatch.setattr(module, "_compare_outputs", lambda *_: (0.5, ""))
    with pytest.raises(ValueError, match="differ(s|) from"):
        convert(GOLDEN / "qwen3", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_model_too_large_for_this_machine_is_converted_without_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "memory_gib", lambda: 1e-6)
    converted = convert(GOLDEN / "qwen3", tmp_path / "out", progress=False)
    assert converted.difference is None
    assert "this machine has" in module.report(converted, "out")


def test_card_of_a_run_has_its_scores_and_recipe(tmp_path):
    run = tmp_path / "run"
    convert(GOLDEN / "bert_classifier", run / "model", to="aillm", progress=False)
    (run / "report.json").write_text(json.dumps({"task": "TextClassifier", "scores": {"accuracy": 0.875}}))
    (run / "config.yaml").write_text("model:\n  init: hf:org/name\n")
    convert(run, tmp_path / "out", progress=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| accuracy | 0.875 |" in card
    assert "  init: hf:org/name" in card


def change_task(folder: Path, **options) -> None:
    facts = json.loads((folder / "task.json").read_text())
    facts["options"] |= options
    (folder / "task.json").write_text(json.dumps(facts))


def test_task_whose_head_computes_otherwise_than_the_family_is_refused(tmp_path):
    convert(GOLDEN / "bert_classifier", tmp_path / "ours", to="aillm", progress=False)
    change_task(tmp_path / "ours", pooler_activation="gelu")
    with pytest.raises(ValueError, match=r"pooler_activation is 'gelu', BERT has 'tanh'"):
        convert(tmp_path / "ours", tmp_path / "out", progress=False)


def test_task_with_a_head_that_transformers_has_not_is_refused(tmp_path):
    convert(GOLDEN / "bert_classifier", tmp_path / "ours", to="aillm", progress=False)
    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    save_file({n: a for n, a in tensors.items() if "pooler" not in n}, tmp_path / "ours" / "model.safetensors")
    with pytest.raises(ValueError, match=r"no BERT of transformers has a place for classifier/bias, classifier/kernel"):
        convert(tmp_path / "ours", tmp_path / "out", progress=False)


def test_classifier_of_several_labels_says_so_to_transformers(tmp_path):
    convert(GOLDEN / "bert_classifier", tmp_path / "ours", to="aillm", progress=False)
    change_task(tmp_path / "ours", multi_label=True)
    convert(tmp_path / "ours", tmp_path / "out", progress=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_card_does_not_tell_where_the_source_lies(tmp_path):
    convert(GOLDEN / "qwen3", tmp_path / "out", progress=False)
    assert "golden" not in (tmp_path / "out" / "README.md").read_text()


def test_command_reports_what_it_compared(tmp_path, capsys):
    assert main(["convert", str(GOLDEN / "qwen3"), str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrote {tmp_path / 'out'}: Qwen3ForCausalLM, 5,880 parameters, float32"
    assert lines[1:] == [
        "tensors: each is the source's, bit for bit",
        "outputs: compared on 8 rows of random tokens (it has no tokenizer), largest difference 0",
    ]


def test_outputs_are_compared_on_text_where_there_is_a_tokenizer(tmp_path):
    assert convert(GOLDEN / "bert_classifier", tmp_path / "out", progress=False).compared == "8 texts"


def test_inspect_tells_family_size_and_tensors(capsys):
    assert main(["inspect", str(GOLDEN / "bert_classifier")]) == 0
    output = capsys.readouterr().out
    for part in (
        "family        BERT (bert)",
        "architecture  BertForSequenceClassification",
        "parameters    20,899 (backbone 19,744, pooler 1,056, classifier 99)",
        "type          float32",
        "classes       negative, neutral, positive",
        "tokenizer     wordpiece, 120 tokens",
        "bert.embeddings.word_embeddings.weight",
    ):
        assert part in output


def test_inspect_puts_layers_that_are_alike_on_one_line():
    table = [line for line in describe(GOLDEN / "gpt2").splitlines() if "attention/qkv/kernel" in line]
    assert len(table) == 1
    assert "layer_{0-1}" in table[0]
    assert "transformer.h.{0-1}.attn.c_attn.weight" in table[0]


@pytest.mark.parametrize("name", ["tf1_bert", "bert_masked_lm", "t5_v1_0"])
def test_inspect_reads_every_kind_of_folder(name):
    assert describe(GOLDEN / name).startswith("family")


def test_inspect_of_a_huggingface_folder_does_not_import_tensorflow():
    code = (
        "import sys; from aillm_tf.weights.inspect import describe; describe('tests/golden/qwen3')\n"
        "print([name for name in ('tensorflow', 'keras', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_unknown_source_is_one_clean_line(capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "no/such/folder"])
    assert capsys.readouterr().err.startswith("aillm: 'no/such/folder': no such file or folder")
