"""Questions from files: shapes, wrong offsets, bad rows, unlabelled files, splits."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.data import sources, tfds_source
from aillm_tf.data.squad import Answer, read_squad
from aillm_tf.data.tfds_source import Records

CONTEXT = "Rollo led the Norse. In 911 the Norse settled in Normandy, says Dudo."
SQUAD2 = Path(__file__).parents[3] / "shared" / "data" / "squad2"


def qa(name, text, *answers, **more):
    return {"id": name, "question": text, "answers": [{"text": t, "answer_start": s} for t, s in answers], **more}


def squad(*qas, context=CONTEXT, title="Normans"):
    return {"data": [{"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}]}


@pytest.fixture
def write(tmp_path):
    """Writes a value as JSON, or text as it is; returns the path."""

    def write(content, name="questions.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
        return path

    return write


def test_v1_questions_all_have_answers(write):
    found = read_squad(write(squad(qa("1", "Who?", ("Rollo", 0)), qa("2", "When?", ("911", 24), ("In 911", 21)))))
    assert (found.ids, found.questions, found.contexts) == (["1", "2"], ["Who?", "When?"], [CONTEXT])
    assert found.answers == [[Answer("Rollo", 0)], [Answer("911", 24), Answer("In 911", 21)]]
    assert found.labelled and not found.has_unanswerable
    assert found.golds == [["Rollo"], ["911", "In 911"]]


def test_v2_plausible_answers_are_none(write):
    one = qa("1", "Who?", ("Rollo", 0), is_impossible=False)
    two = qa("2", "Where?", is_impossible=True, plausible_answers=[{"text": "Normandy", "answer_start": 49}])
    found = read_squad(write(squad(one, two)))
    assert found.answers[1] == [] and found.has_unanswerable
    assert found.summary() == "2 questions about 1 contexts, 1 without an answer"


def test_a_file_without_any_answer_is_unlabelled_not_unanswerable(write):
    found = read_squad(write(squad(qa("1", "Who?"), qa("2", "When?"))))
    assert not found.labelled and not found.has_unanswerable
    assert "unlabelled" in found.summary()


def test_a_context_is_kept_once(write):
    content = squad(qa("1", "Who?", ("Rollo", 0)))
    content["data"] += squad(qa("2", "When?", ("911", 24)))["data"]
    found = read_squad(write(content))
    assert found.contexts == [CONTEXT] and found.context_of.tolist() == [0, 0]


def test_cmrc_in_squads_shape(write):
    context = "罗洛公爵于911年率领诺曼人。"
    found = read_squad(write(squad(qa("D_1", "谁率领？", ("罗洛公爵", 0), ("罗洛", 0)), context=context)))
    assert found.golds == [["罗洛公爵", "罗洛"]]


def test_cmrc_in_its_first_shape_has_texts_without_places(write):
    article = {"context_id": "T", "context_text": "罗洛率领。罗洛。", "title": "x"}
    found = read_squad(
        write([{**article, "qas": [{"query_id": "q", "query_text": "谁？", "answers": ["罗洛", "他"]}]}])
    )
    assert found.answers == [[Answer("罗洛", 0), Answer("他", -1)]]


@pytest.mark.parametrize("answers", [{"text": ["911"], "answer_start": [24]}, [{"text": "911", "answer_start": 24}]])
def test_rows_of_jsonl_have_answers_in_either_shape(answers, write):
    rows = [
        {"id": "1", "question": "When?", "context": CONTEXT, "answers": answers},
        {"id": "2", "question": "Where?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
    ]
    found = read_squad(write("".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl"))
    assert found.answers == [[Answer("911", 24)], []] and found.has_unanswerable


def test_rows_of_jsonl_may_lack_what_is_optional(write):
    answers = {"text": [], "answer_start": []}
    row = {"question": "Where?", "context": CONTEXT, "answers": answers}
    rows = [{**row, "id": "1"}, {**row, "id": "2", "title": "t", "is_impossible": True}, {"id": "3"}]
    rows += [{**row, "id": "4", "is_impossible": False, "context": "Rollo."}]
    found = read_squad(write("".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl"), on_bad="skip")
    assert found.ids == ["1", "2", "4"] and found.labelled and found.has_unanswerable
    assert len(found.skipped) == 1 and "rows.jsonl:3 (column question)" in found.skipped[0]


def test_is_impossible_is_read_without_a_title(monkeypatch):
    row = {"id": "1", "context": CONTEXT, "question": "Q", "answers": {"text": []}, "is_impossible": True}

    def hub(spec, columns):
        return Records(iter([(0, row)]), tfds_source._choose(columns, list(row), spec), {})

    monkeypatch.setattr(sources, "hf_records", hub)
    found = read_squad("hf:owner/name")
    assert found.labelled and found.has_unanswerable


def test_hugging_face_datasets_are_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(
        [
            {
                "id": "1",
                "title": "t",
                "context": CONTEXT,
                "question": "Q",
                "answers": {"text": ["911"], "answer_start": [24]},
            }
        ]
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    found = read_squad("hf:rajpurkar/squad:train")
    assert found.answers == [[Answer("911", 24)]] and found.groups == ["t"]


def test_gzip_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "dev.json.gz"
    content = "\ufeff" + json.dumps(squad(qa("1", "Who?", ("Rollo", 0))))
    path.write_bytes(gzip.compress(content.encode()))
    assert len(read_squad(path)) == 1


# Wrong offsets


@pytest.mark.parametrize(
    ("text", "start", "right"),
    [
        ("Norse", 16, 14),  # stands there twice: not guessed
        ("Normandy", 52, 49),
        ("Rollo", 40, 0),
        ("Normandy", None, 49),
        ("Norse", None, 14),  # no place at all: the first
        ("Dane", 0, -1),
        ("", 3, -1),
        ("Normandy", -1, 49),
        ("Rollo", 10_000, -1),
    ],
)
def test_wrong_offsets(text, start, right, write, caplog):
    found = read_squad(write(squad(qa("1", "Q?", (text, start)))))
    once = CONTEXT.count(text) == 1
    expected = right if once or start is None or right < 0 else -1
    assert found.answers[0][0].start == expected
    assert (len(found.repaired), len(found.unplaced)) == (int(expected >= 0), int(expected < 0))
    assert "1 answers" in caplog.text and "(id 1)" in caplog.text


def test_an_answer_far_from_its_offset_is_not_guessed(write):
    context = "Rollo." + " x" * 200
    found = read_squad(write(squad(qa("1", "Who?", ("Rollo", 300)), context=context)))
    assert found.answers[0] == [Answer("Rollo", -1)]


def test_byte_offsets_are_put_right_near_by(write):
    context = "Zoë Müller lives in Kraków near the café of Émile."
    start = len(context[: context.index("Émile")].encode())
    found = read_squad(write(squad(qa("1", "Who?", ("Émile", start)), context=context)))
    assert found.answers[0] == [Answer("Émile", context.index("Émile"))] and len(found.repaired) == 1


# Bad files and rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', r"questions.json:1:11: not JSON .*is the download complete"),
        ({"version": "x"}, "no list of articles under 'data'; the file holds 'version'"),
        ({"data": [{"title": "t"}]}, r"data\[0\]: no 'paragraphs'; there is 'title'"),
        ({"data": [{"paragraphs": [{"context": "c"}]}]}, r"data\[0\].paragraphs\[0\]: no 'qas'"),
        ({"data": [{"paragraphs": {}}]}, "'paragraphs' is dict, not a list"),
        ({"data": []}, "no usable question"),
        (squad(qa("1", 5)), r"qas\[0\] \(id 1\): the question is 5, not a string"),
        (squad(qa("1", "Q"), qa("1", "R")), r"qas\[1\] \(id 1\): the id is taken by .*qas\[0\]"),
        (squad(qa("1", "Q"), context=" "), "the context is empty"),
        (squad({"id": "1", "question": "Q", "answers": 7}), "the answers are 7: neither"),
        (squad(qa("1", "Q", ("x", "3"))), "an answer is 'x' at '3'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(content, message, write):
    with pytest.raises(ValueError, match=message):
        read_squad(write(content))


def test_a_lone_surrogate_is_named(write):
    text = json.dumps(squad(qa("1", "Q \ud800?")))
    with pytest.raises(ValueError, match=r"\(id 1\): the question has broken text, lone surrogate U\+D800"):
        read_squad(write(text))


def test_bad_questions_can_be_skipped_and_are_counted(write, caplog):
    found = read_squad(write(squad(qa("1", 5), qa("2", "Who?", ("Rollo", 0)))), on_bad="skip")
    assert found.ids == ["2"] and len(found.skipped) == 1
    assert "1 questions were skipped" in caplog.text


def test_what_is_wrong_inside_a_file_can_be_skipped_and_is_counted(write):
    content = squad({"id": "1", "answers": []}, {"question": "Q?"}, "Q?", qa("2", "Who?", ("Rollo", 0)))
    content["data"][0]["paragraphs"] += [{"context": CONTEXT}, {"qas": []}, {"context": CONTEXT, "qas": {}}]
    found = read_squad(write(content), on_bad="skip")
    assert found.ids == ["2"] and len(found.skipped) == 6
    assert "data[0].paragraphs[0].qas[0]: no 'question'; there is 'id', 'answers'" in found.skipped[0]


@pytest.mark.parametrize("content", [{"version": "x"}, {"data": [{"title": "t"}]}, {"data": [{"paragraphs": {}}]}])
def test_a_file_of_another_shape_cannot_be_skipped(content, write):
    with pytest.raises(ValueError, match="under 'data'|of SQuAD's shape"):
        read_squad(write(content), on_bad="skip")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.json: no such file"):
        read_squad(tmp_path / "nothing.json")


# Parts


@pytest.fixture
def articles(write):
    """20 questions in 5 articles; every second has an answer."""
    content = {"data": []}
    for a in range(5):
        qas = [qa(f"{a}-{i}", "Q?", *([("Rollo", 0)] if i % 2 else []), is_impossible=not i % 2) for i in range(4)]
        content["data"] += squad(*qas, context=f"Rollo {a}", title=f"t{a}")["data"]
    return read_squad(write(content))


def test_a_split_keeps_articles_whole(articles):
    rest, held_out = articles.split(0.3, seed=1)
    assert sorted(rest.ids + held_out.ids) == sorted(articles.ids)
    assert not set(rest.groups) & set(held_out.groups)
    assert len(held_out) in (4, 8)


def test_a_split_is_a_function_of_the_seed(articles):
    assert articles.split(0.3, seed=1)[1].ids == articles.split(0.3, seed=1)[1].ids
    assert len({tuple(articles.split(0.2, seed=seed)[1].ids) for seed in range(8)}) > 1


def test_titles_may_be_numbers(write):
    content = squad(qa("1", "Q?", ("911", 24)), title=911)
    content["data"] += squad(qa("2", "Q?", ("Rollo", 0)), context="Rollo", title="Rollo")["data"]
    rest, held_out = read_squad(write(content)).split(0.5, seed=0)
    assert {*rest.groups, *held_out.groups} == {"911", "Rollo"}


def test_one_article_cannot_be_split(write):
    with pytest.raises(ValueError, match="nothing can be held out"):
        read_squad(write(squad(qa("1", "Who?", ("Rollo", 0)), qa("2", "Q?", ("911", 24))))).split(0.5, 0)


def test_the_answerable_part_is_v1(articles):
    part = articles.answerable()
    assert len(part) == 10 and all(part.answers) and not part.has_unanswerable


def test_taken_questions_keep_their_contexts(articles):
    part = articles.take([17, 3])
    assert part.pairs == [("Q?", "Rollo 4"), ("Q?", "Rollo 0")]
    assert np.array(part.groups)[part.context_of].tolist() == ["t4", "t0"]


@pytest.mark.skipif(not SQUAD2.exists(), reason="no SQuAD 2.0 beside the repository")
def test_the_real_file_has_no_wrong_offset():
    found = read_squad(SQUAD2 / "dev-v2.0.json")
    assert found.summary() == "6,078 questions about 646 contexts, 3,168 without an answer"
