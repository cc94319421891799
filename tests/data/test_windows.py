"""Windows of contexts: the rows that the tokenizers library cuts, and each token owned by one of them."""

import itertools

import numpy as np
import pytest

from aillm_tf.data.windows import MAY_START, Windows, make_windows, pair_layout, tokens_of
from aillm_tf.text.tokenizer import Tokenizer

QUESTIONS = ["what film ?", "who was the best of the cast in this long and old story about a war ?", "", "end ?"]
CONTEXTS = ["a funny film about the end of a long war " * 6, "dull", "", "the cast is fine and the story holds you"]
ASKED = [0, 0, 1, 2, 3, 3, 0]  # the context of each question
TEXTS = [QUESTIONS[i] for i in (0, 1, 0, 3, 2, 1, 2)]


def cut(tokenizer, max_length=24, stride=6, max_question_length=8, texts=TEXTS, contexts=CONTEXTS, asked=ASKED):
    options = {"max_length": max_length, "max_question_length": max_question_length, "stride": stride}
    windows = make_windows(
        tokens_of(tokenizer, texts).ids,
        tokens_of(tokenizer, contexts),
        asked,
        pair_layout(tokenizer),
        pad=tokenizer.pad_id,
        **options,
    )
    return Windows(*(tensor.numpy() for tensor in windows))


def rows_of(windows):
    lengths = windows.lengths
    return [
        (ids[:n].tolist(), segments[:n].tolist())
        for ids, segments, n in zip(windows.token_ids, windows.segment_ids, lengths, strict=True)
    ]


@pytest.mark.parametrize(("max_length", "stride"), [(24, 6), (24, 0), (30, 9), (64, 6), (500, 128)])
def test_rows_are_those_of_the_tokenizers_library(tokenizer, max_length, stride):
    # questions short enough that neither side cuts them
    texts, asked = ["what film ?", "end ?", ""], [0, 3, 0]
    windows = cut(tokenizer, max_length, stride, texts=texts, asked=asked)
    expected = tokenizer.encode_spans(
        texts, [CONTEXTS[i] for i in asked], max_length=max_length, truncate="second", stride=stride
    )
    assert windows.example.tolist() == expected.rows.tolist()
    offsets = expected.offsets
    assert rows_of(windows) == [
        (expected.ids[a:b].tolist(), expected.segment_ids[a:b].tolist()) for a, b in itertools.pairwise(offsets)
    ]


def test_other_layouts_are_kept(tmp_path):
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, processors

    backend = Library(models.BPE({"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "b": 4, "Ġ": 5}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.add_special_tokens(["<s>", "</s>", "<pad>"])
    tokenizer = Tokenizer(backend)
    windows = cut(tokenizer, 9, 1, texts=["a"], contexts=["abab"], asked=[0])
    assert rows_of(windows)[0][0] == [0, 3, 2, 2, 3, 4, 3, 4, 2]


def test_every_seen_token_of_a_context_is_owned_by_one_window(tokenizer):
    windows = cut(tokenizer)
    lengths = tokens_of(tokenizer, CONTEXTS).ids.row_lengths().numpy()
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for example, context in enumerate(ASKED):
        owned = []
        for row in np.flatnonzero(windows.example == example):
            at = np.flatnonzero(windows.role[row] == MAY_START)
            owned += (at - windows.lead[row] + windows.first[row]).tolist()
        assert sorted(owned) == list(range(starts[context], starts[context + 1]))


def test_a_token_is_owned_where_the_context_around_it_is_largest(tokenizer):
    windows = cut(tokenizer)
    for example in set(windows.example):
        rows = np.flatnonzero(windows.example == example)
        measure = {}  # by token, of each window: BERT's formula
        for row in rows:
            for i in range(windows.count[row]):
                value = min(i, windows.count[row] - 1 - i) + 0.01 * windows.count[row]
                measure.setdefault(windows.first[row] + i, {})[row] = value
        for token, of_window in measure.items():
            best = max(of_window, key=lambda row, of_window=of_window: (of_window[row], -row))
            for row in of_window:
                role = windows.role[row, token - windows.first[row] + windows.lead[row]]
                assert (role == MAY_START) == (row == best)


def test_a_long_question_leaves_room_for_the_context(tokenizer):
    windows = cut(tokenizer, max_length=16, max_question_length=64, texts=["film " * 40], asked=[0])
    assert (windows.lengths <= 16).all() and windows.count.max() >= 6
    assert windows.lead.tolist() == [2 + 6] * len(windows.lead)


def test_an_empty_context_has_one_row_that_holds_no_answer(tokenizer):
    windows = cut(tokenizer, texts=["what ?"], asked=[2])
    assert windows.count.tolist() == [0] and not windows.role.any()


def test_no_questions_have_no_rows(tokenizer):
    assert cut(tokenizer, texts=[], contexts=[], asked=np.zeros(0, "int64")).token_ids.shape[0] == 0


def test_a_tokenizer_without_a_first_special_token_is_refused(tokenizer):
    from tokenizers import Tokenizer as Library
    from tokenizers import models

    plain = Tokenizer(Library(models.WordPiece({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]")))
    with pytest.raises(ValueError, match="puts a special token first"):
        pair_layout(plain)
