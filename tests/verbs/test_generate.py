"""aillm generate: what is written to the terminal and to files is what the model answers, wherever it came from."""

import json

import pytest

import aillm_tf
from aillm_tf.cli import main
from aillm_tf.tasks.causal_lm import CausalLM

TEXTS = ["one two three four", "two three", "six seven one two"] * 2
PROMPTS = ["one two", "six"]
FEW = ["--max-new-tokens", "5"]


@pytest.fixture(scope="module")
def model():
    tokenizer = aillm_tf.train_tokenizer(TEXTS, "char", 60, use="decoder")
    shape = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn_size": 64, "max_length": 32, "initializer_range": 0.3}
    return CausalLM(aillm_tf.preset("gpt2-tiny", tokenizer.vocab_size, **shape), tokenizer, dtype="float32")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("generate") / "model"
    model.save(path)
    return str(path)


def texts(answers: list[dict]) -> str:
    """A line for each text, as they are printed."""
    return "".join(f"{text['text']}\n" for answer in answers for text in (answer, *answer.get("alternatives", ())))


def test_texts_are_printed_while_they_are_written(model, folder, capsys):
    assert main(["generate", folder, *PROMPTS, *FEW]) == 0
    assert capsys.readouterr().out == texts(model.answer(PROMPTS, max_new_tokens=5))


def test_a_draft_changes_no_text(model, folder, capsys):
    assert main(["generate", folder, *PROMPTS, *FEW, "--draft", folder]) == 0
    assert capsys.readouterr().out == texts(model.answer(PROMPTS, max_new_tokens=5))


def test_a_text_ends_before_a_stop_string(model, folder, capsys):
    whole = model.answer(PROMPTS[:1], max_new_tokens=5)[0]["text"]
    assert main(["generate", folder, PROMPTS[0], *FEW, "--stop", whole[2:4], "none"]) == 0
    assert capsys.readouterr().out == f"{whole[: whole.index(whole[2:4])]}\n"


def test_beams_and_several_texts_are_printed_whole(model, folder, capsys):
    assert main(["generate", folder, *PROMPTS, *FEW, "--beams", "3", "--texts", "2"]) == 0
    expected = texts(model.answer(PROMPTS, max_new_tokens=5, num_beams=3, num_return_sequences=2))
    assert capsys.readouterr().out == expected and expected.count("\n") == 4


def test_lines_of_a_file_become_json_lines_of_another(model, folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    drawn = {"temperature": 0.8, "top_k": 5, "seed": 3}
    options = [word for name, value in drawn.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    files = ["--input", str(tmp_path / "prompts.txt"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["generate", folder, *files, *FEW, *options]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == PROMPTS and not capsys.readouterr().out
    assert [row["text"] for row in rows] == [a["text"] for a in model.answer(PROMPTS, max_new_tokens=5, **drawn)]


def test_a_folder_in_hugging_face_layout_is_gone_on_with(model, tmp_path, capsys):
    model.save_huggingface(tmp_path)
    assert main(["generate", str(tmp_path), PROMPTS[0], *FEW]) == 0
    assert capsys.readouterr().out == texts(model.answer(PROMPTS[:1], max_new_tokens=5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give either prompts or --input"),
        (["one", "--input", "-"], "give either prompts or --input"),
        (["one", "--beams", "2", "--temperature", "1"], "beam search draws nothing"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message, folder, capsys):
    with pytest.raises(SystemExit):
        main(["generate", folder, *given])
    assert message in capsys.readouterr().err


def test_a_run_whose_training_did_not_end_is_called_so(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("out: here\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path), "one"])
    assert "is a run without a model: train it to the end" in capsys.readouterr().err


def test_a_model_that_writes_no_text_is_refused(make_masked_lm, tmp_path, capsys):
    make_masked_lm().save(tmp_path)
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path), "one"])
    assert "is a MaskedLM, which writes no text: see aillm predict" in capsys.readouterr().err
