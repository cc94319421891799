"""QuestionAnswering: what it learns, what it finds in contexts of any length, and what comes back from its files."""

import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from fuzzed import fuzzed
from scipy.special import expit, log_softmax, logsumexp

import aillm_tf
from aillm_tf.data.squad import read_squad
from aillm_tf.tasks.question_answering import QuestionAnswering
from aillm_tf.training.optimizer import adamw

GOLDEN = Path(__file__).parents[1] / "golden"
SQUAD2 = Path(__file__).parents[3] / "shared" / "data" / "squad2" / "dev-v2.0.json"
LONG = " ".join(f"film {i} is a story of war and wit, told with a warm heart." for i in range(60))
PAIRS = [
    ("what is it about ?", "A film about the end of a long war; a cast of Zoë's."),
    ("who ?", LONG),
    ("", "dull"),
    ("which story is the best of all the stories told in a year of war and of wit , or in ten years ?", LONG[:300]),
    ("what ?", ""),
    ("what ?", " \t\n "),
    ("哪部电影？", "这部电影好看。😀 👩‍👩‍👧 the end"),
    ("what  is\tit", "  two   spaces ,  and [MASK] [SEP] ##ing  "),
]


@pytest.fixture(scope="module")
def make(config, tokenizer):
    """Builds a small float32 model whose scores are far from each other."""

    def make(**options):
        options = {"max_length": 32, "stride": 8, "max_question_length": 12, "max_answer_length": 5, **options}
        shape = dataclasses.replace(config, initializer_range=0.5)
        return QuestionAnswering(shape, tokenizer, **{"n_best": 4, "dtype": "float32", **options})

    return make


@pytest.fixture(scope="module")
def model(make):
    return make()


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes (question, context, answer or None) rows as a file of SQuAD's shape."""

    def write(rows):
        paragraphs = []
        for number, (question, context, answer) in enumerate(rows):
            answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
            qa = {"id": str(number), "question": question, "answers": answers, "is_impossible": answer is None}
            paragraphs.append({"context": context, "qas": [qa]})
        path = tmp_path_factory.mktemp("squad") / "questions.json"
        path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}), "utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def rows(write):
    """Questions of short and long contexts, some without an answer."""
    rows = [("who ?", LONG, "film 37"), ("what ?", "a warm heart and a long war", "long war"), ("where ?", LONG, None)]
    return write([*rows, ("is it dull ?", "dull", "dull"), ("is it not ?", "dull", None)])


# Learning


def test_the_loss_is_the_mean_cross_entropy_of_start_and_end(model, rows):
    data = model.dataset(rows, batch_size=3)
    expected, count = 0.0, 0
    for batch in data.batches(0, data.steps_per_epoch):
        batch = {name: value.numpy() for name, value in batch.items()}
        logits = np.asarray(model(batch), "float64")
        for row in np.flatnonzero(batch["weight"]):
            real = logits[row, batch["valid"][row] == 1]
            start, end = batch["start"][row], batch["end"][row]
            expected -= (log_softmax(real[:, 0])[start] + log_softmax(real[:, 1])[end]) / 2
            count += 1
    assert count == len(data) > 5
    assert model.evaluate(data, verbose=0)["loss"] == pytest.approx(expected / count, abs=1e-5)


def test_targets_are_the_tokens_of_the_answer_or_the_first_one(model, rows):
    data = model.dataset(rows, batch_size=64)
    questions, example, shift, spans = data.asked
    found = {number: set() for number in range(5)}
    for batch in data.batches(0, data.steps_per_epoch):
        for row, start, end in zip(*(batch[name].numpy() for name in ("row", "start", "end")), strict=True):
            if row >= 0:
                context = questions.contexts[questions.context_of[example[row]]]
                text = context[spans[start + shift[row], 0] : spans[end + shift[row], 1]] if start else "none"
                found[example[row]].add(text)
    assert found[0] == {"film 37", "none"}  # in the windows that hold it, and nothing in the others
    assert (found[1], found[2], found[3], found[4]) == ({"long war"}, {"none"}, {"dull"}, {"none"})


def test_an_answer_that_is_not_in_its_context_is_not_learned_from(model, tmp_path, caplog):
    qas = [{"id": "1", "question": "q", "answers": [{"text": "nowhere", "answer_start": 0}]}]
    qas += [{"id": "2", "question": "q", "answers": [{"text": "dull", "answer_start": 0}]}]
    content = {"data": [{"title": "t", "paragraphs": [{"context": "dull film", "qas": qas}]}]}
    (tmp_path / "q.json").write_text(json.dumps(content), "utf-8")
    data = model.dataset(str(tmp_path / "q.json"))
    assert data.columns["learned"].tolist() == [0.0, 1.0]
    assert "1 of 2 questions are not learned from" in caplog.text
    assert model.evaluate(data, verbose=0)["examples"] == 2  # yet scored


def test_questions_that_are_cut_are_counted(make, write, caplog):
    path = write([("war " * length, "a long war", "war") for length in (14, 15)])
    make(max_question_length=64).dataset(path)  # of 32 tokens 3 are special, and half of the others may be a question's
    assert "1 of 2 questions are cut to 14 tokens" in caplog.text


@pytest.fixture(scope="module")
def trained(config, tokenizer, write):
    """A model that learned where "cast", "war" and "film" are, and that there is no "joke"."""
    words = ["the cast", "a war", "one film"]
    contexts = [" , ".join(words[i:] + words[:i]) for i in range(3)]
    asked = [
        (f"{word} ?", context, next((w for w in words if word in w), None))
        for context in contexts
        for word in ("cast", "war", "film", "joke")
    ]
    model = QuestionAnswering(config, tokenizer, max_length=32, stride=8, dtype="float32", max_answer_length=4)
    path = write(asked)
    model.compile(adamw(1e-2))
    data = model.dataset(path, batch_size=12, shuffle=True, fixed_length=True)
    return model, model.fit(data, epochs=100, verbose=0), path


def test_a_toy_set_is_learned(trained):
    model, history, path = trained
    assert history.history["loss"][-1] < 0.2 < history.history["loss"][0]
    scores = model.evaluate(model.dataset(path), verbose=0)
    assert scores["f1"] == scores["HasAns_exact"] == scores["NoAns_f1"] == 100.0
    found = model.answer([("war ?", "the cast , a war , one film"), ("joke ?", "the cast , a war , one film")])
    assert [answer["answer"] for answer in found] == ["a war", ""]
    assert found[1]["no_answer"] == found[1]["score"] > 0.5 > found[0]["no_answer"]


def test_the_tuned_threshold_is_used_saved_and_reaches_the_best_f1(trained, tmp_path):
    model, _, path = trained
    data = model.dataset(path)
    model.no_answer_threshold, model._answer = 0.0, None
    assert {answer["answer"] for answer in model.answer(read_squad(path).pairs)} == {""}
    threshold = model.tune(data, verbose=0)
    scores = model.evaluate(data, verbose=0)
    assert scores["f1"] == scores["best_f1"] == 100.0
    model.save(tmp_path / "saved")
    loaded = aillm_tf.load(tmp_path / "saved")
    assert loaded.no_answer_threshold == threshold and loaded.options() == model.options()
    assert loaded.answer(PAIRS[:1]) == model.answer(PAIRS[:1])


# Finding: against the rule written out in Python


def plain_answers(model, question, context):
    """What the task should answer: BERT's rule, window by window, span by span."""
    encoded = model.tokenizer.encode_spans(
        [question], [context], max_length=model.max_length, truncate="second", stride=model.stride
    )
    rows = [slice(a, b) for a, b in itertools.pairwise(encoded.offsets)]
    measure, windows = {}, []
    for number, row in enumerate(rows):
        inside = np.flatnonzero(encoded.text_ids[row] == 1)
        first = number * ((encoded.text_ids[rows[0]] == 1).sum() - model.stride)
        features = {"token_ids": encoded.ids[row][None], "segment_ids": encoded.segment_ids[row][None]}
        logits = np.asarray(model({**features, "valid": np.ones_like(features["token_ids"])}), "float64")[0]
        windows.append((first, inside, encoded.spans[row], logits))
        for i in range(len(inside)):
            value = min(i, len(inside) - 1 - i) + 0.01 * len(inside)
            measure.setdefault(first + i, []).append((-value, number))
    found = []
    for number, (first, inside, spans, logits) in enumerate(windows):
        for i, a in enumerate(inside):
            if min(measure[first + i])[1] != number:
                continue
            for b in inside[i : i + model.max_answer_length]:
                if spans[a][0] < spans[a][1] and spans[b][0] < spans[b][1]:
                    found.append((logits[a, 0] + logits[b, 1], int(spans[a][0]), int(spans[b][1])))
    null = min(logits[0].sum() for *_, logits in windows)
    return sorted(found, reverse=True), null


@pytest.mark.parametrize("pair", [0, 1, 2, 4, 5, 6, 7])
def test_answers_are_the_best_span_of_all_windows(pair, make):
    model = make(no_answer_threshold=1.0)
    found, null = plain_answers(model, *PAIRS[pair])
    answer = model.answer([PAIRS[pair]])[0]
    if not found:
        assert answer == {"answer": "", "score": 1.0, "start": 0, "end": 0, "no_answer": 1.0}
        return
    best, start, end = found[0]
    assert (answer["start"], answer["end"]) == (start, end)
    assert answer["no_answer"] == pytest.approx(expit(null - best), abs=1e-5)
    rivals = [score for score, *_ in found[: model.n_best]] + [null]
    assert answer["score"] == pytest.approx(np.exp(best - logsumexp(rivals)), abs=1e-5)
    assert answer["answer"] == PAIRS[pair][1][start:end]


def test_of_equally_good_spans_the_first_is_the_answer(make):
    model = make(no_answer_threshold=1.0)
    model.spans.kernel.assign(model.spans.kernel * 0)
    assert model.answer([("who ?", LONG)])[0]["answer"] == "film"


def test_scored_answers_are_those_of_answer(model, rows):
    questions = read_squad(rows)
    _, scored = model.evaluate(model.dataset(questions, batch_size=4), verbose=0, return_rows=True)
    answers = model.answer(questions.pairs)
    assert scored["answer"].tolist() == [answer["answer"] for answer in answers]
    assert scored["start"].tolist() == [answer["start"] for answer in answers]
    for name in ("score", "no_answer"):
        np.testing.assert_allclose(scored[name], [answer[name] for answer in answers], atol=1e-5)
    for (_, context), best, spans in zip(questions.pairs, scored["best"], scored["n_best"], strict=True):
        assert best in context and best == spans[0][0]
        assert all(text in context for text, _ in spans) and sum(p for _, p in spans) <= 1 + 1e-6


def test_answers_do_not_depend_on_batch_order_or_company(model):
    together = model.answer(PAIRS)
    backwards = model.answer(PAIRS[::-1], batch_size=3)[::-1]
    alone = [model.answer([pair])[0] for pair in PAIRS[:3]]
    for one, other in [*zip(together, backwards, strict=True), *zip(together, alone, strict=False)]:
        assert one["answer"] == other["answer"] and one["start"] == other["start"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_without_unanswerable_questions_there_is_always_an_answer(make):
    model = make(unanswerable=False)
    answers = model.answer(PAIRS)
    assert [bool(answer["answer"]) for answer in answers] == [bool(context.strip()) for _, context in PAIRS]
    assert all(answer["no_answer"] == 0.0 for answer in answers if answer["answer"])


# The graph


@pytest.fixture(scope="module")
def serve(model):
    """What an export's default signature computes, in this process."""
    import tensorflow as tf

    function, inputs = model.signatures(model.graph_tokenizer())["serving_default"]
    call = tf.function(function, input_signature=None, autograph=False).get_concrete_function(**inputs)

    def serve(pairs):
        questions, contexts = zip(*pairs, strict=True)
        outputs = call(question=tf.constant(questions), context=tf.constant(contexts))
        return model.read_answers({name: value.numpy() for name, value in outputs.items()})

    return serve


def test_the_graph_answers_as_the_host_does(serve, model):
    for served, answer in zip(serve(PAIRS), model.answer(PAIRS), strict=True):
        assert {**served, "score": 0, "no_answer": 0} == {**answer, "score": 0, "no_answer": 0}
        assert served["score"] == pytest.approx(answer["score"], abs=1e-5)
        assert served["no_answer"] == pytest.approx(answer["no_answer"], abs=1e-5)


def test_a_context_of_20000_characters_is_read_to_its_end(serve, make):
    context = (LONG * 8)[:20000]
    pairs = [("what ?", context), ("who ?", context[::-1])]
    served, answered = serve(pairs), make().answer(pairs)
    for one, other, (_, text) in zip(served, answered, pairs, strict=True):
        assert one["answer"] == other["answer"] == text[one["start"] : one["end"]]
        assert one["start"] == other["start"]


def test_bytes_that_are_not_utf8_are_counted_as_replacement_characters(serve):
    context = b"\xff\xfe long \xc3\x28 war " * 3
    answer = serve([(b"what \xff ?", context)])[0]
    assert answer["answer"] == context.decode("utf-8", "replace")[answer["start"] : answer["end"]]


def check_offsets(serve, contexts):
    chance = random.Random(1)
    pairs = [(chance.choice(["what ?", "who is it", "", fuzzed(chance, 9)]), context) for context in contexts]
    found = 0
    for at in range(0, len(pairs), 250):
        for (_, context), answer in zip(pairs[at : at + 250], serve(pairs[at : at + 250]), strict=True):
            assert answer["answer"] == context[answer["start"] : answer["end"]], repr(context)
            assert answer["answer"] == answer["answer"].strip(), repr(context)
            found += bool(answer["answer"])
    return found


def test_the_answer_is_what_stands_between_start_and_end(serve):
    chance = random.Random(0)
    assert check_offsets(serve, [fuzzed(chance, chance.randint(0, 120)) for _ in range(250)]) > 100


@pytest.mark.slow
def test_the_answer_is_what_stands_between_start_and_end_in_5000_texts(serve):
    chance = random.Random(2)
    texts = [fuzzed(chance, chance.randint(0, 400)) for _ in range(4400)]
    texts += [context for _, context in PAIRS]
    if SQUAD2.exists():
        texts += read_squad(SQUAD2).contexts
    assert check_offsets(serve, texts) > 3000


@pytest.mark.slow
def test_an_export_answers_in_a_fresh_process_as_the_task_does(make, tmp_path):
    facts = make(no_answer_threshold=0.9).export(tmp_path / "1")
    assert facts["checked"] == 13 and facts["max_difference"] <= 1e-4


# Files


def test_span_heads_of_transformers_compute_the_same():
    golden = np.load(GOLDEN / "bert_spans.npz")
    model = QuestionAnswering.from_pretrained(str(GOLDEN / "bert_spans"), max_length=24, dtype="float32")
    logits = np.asarray(model({name: golden[name] for name in ("token_ids", "segment_ids", "valid")}))
    np.testing.assert_allclose(logits[golden["valid"] == 1], golden["logits"], atol=1e-4)


def test_span_heads_are_written_as_transformers_has_them(tmp_path):
    from safetensors.numpy import load_file

    model = QuestionAnswering.from_pretrained(str(GOLDEN / "bert_spans"), max_length=24)
    model.save_huggingface(tmp_path)
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (GOLDEN / "bert_spans", tmp_path))
    assert set(theirs) == set(ours)
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForQuestionAnswering"]


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 6}, "no room for a question"),
        ({"n_best": 0}, "n_best is 0"),
        ({"no_answer_threshold": 1.5}, "is a probability"),
        ({"scoring": "bleu"}, '"squad" or "cmrc"'),
    ],
)
def test_impossible_options_are_refused(options, message, make):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_unlabelled_questions_are_no_data(model, tmp_path):
    content = {"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q", "answers": []}]}]}]}
    (tmp_path / "q.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match="unlabelled"):
        model.dataset(str(tmp_path / "q.json"))


def test_questions_without_an_answer_are_refused_by_a_model_that_always_answers(make, rows):
    with pytest.raises(ValueError, match=r"take questions.answerable\(\)"):
        make(unanswerable=False).dataset(rows)


def test_strings_in_place_of_pairs_are_refused(model):
    with pytest.raises(TypeError, match="list of pairs"):
        model.answer(["who ?"])
