"""Training of vocabularies."""

import subprocess
import sys

import pytest

from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.text.train import kept_tokenizer, train_tokenizer

CORPUS = [
    *(
        "The lower the tide, the newer the sand.",
        "Newer sand is lower than the newest sand!",
        "Thé lowest tide; naïve.",
    ),
    *("今天天气很好，我们去公园。", "今天公园的天气不好。", "我们今天不去公园"),
] * 4
SIZES = {"wordpiece": 120, "bpe": 320, "unigram": 90}
KINDS = tuple(SIZES)
TEXTS = ["The newest sand.", "今天lower天气", "unseen Ωords ☃", ""]


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    return train_tokenizer(CORPUS, request.param, vocab_size=SIZES[request.param])


def pieces(tokenizer, text):
    return [tokenizer.vocabulary[index] for index in tokenizer.encode([text]).ids[1:-1]]


def test_special_tokens_come_first(trained):
    assert trained.vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_vocabulary_is_no_larger_than_asked(trained):
    assert 5 < trained.vocab_size <= SIZES[trained.kind]


def test_texts_are_put_between_special_tokens(trained):
    encoded = trained.encode(["sand"], ["tide"])
    assert encoded.ids[[0, -1]].tolist() == [2, 3]
    assert (encoded.ids == 3).sum() == 2
    assert encoded.segment_ids[[0, -1]].tolist() == [0, 1]


def test_decoding_gives_the_words_back(trained):
    assert trained.decode(trained.encode(["the newest sand"]).ids).strip() == "the newest sand"


def test_chinese_characters_are_never_joined(trained):
    alone = [trained.decode([index]).strip() for index in trained.encode(["今天天气很好"]).ids[1:-1]]
    assert max(map(len, alone)) == 1


def test_each_chinese_character_starts_a_word(trained):
    encoded = trained.encode(["今天公园"])
    assert (~trained.continuation[encoded.ids[1:-1]]).sum() >= 4


def test_pieces_inside_a_word_continue_it(trained):
    ids = trained.encode(["newesttide"]).ids[1:-1]
    assert trained.continuation[ids].any()


def test_saved_folder_encodes_the_same(trained, tmp_path):
    trained.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).encode(TEXTS).ids.tolist() == trained.encode(TEXTS).ids.tolist()


def test_transformers_reads_the_saved_folder_alike(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    expected = [theirs(text, "the tide") for text in TEXTS]
    ours = [trained.encode([text], ["the tide"]) for text in TEXTS]
    assert [row.ids.tolist() for row in ours] == [row["input_ids"] for row in expected]
    assert [row.segment_ids.tolist() for row in ours] == [row["token_type_ids"] for row in expected]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_every_process_learns_the_same_vocabulary(kind):
    program = (
        "import sys; from aillm_tf.text.train import train_tokenizer; "
        "words = [chr(97 + i % 26) + chr(97 + i * 7 % 26) * (i % 5) + chr(0xe0 + i % 20) for i in range(200)]; "
        f"print(train_tokenizer([' '.join(words)] * 3, {kind!r}, vocab_size=330).fingerprint)"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(3)]
    assert len({run.stdout for run in runs}) == 1 and runs[0].stdout, runs[0].stderr


def test_texts_may_be_an_iterator():
    once = train_tokenizer(iter(CORPUS), vocab_size=120)
    assert once.fingerprint == train_tokenizer(CORPUS, vocab_size=120).fingerprint


def test_rare_characters_get_no_token():
    tokenizer = train_tokenizer(["common words ☃", "common words"], vocab_size=60)
    assert pieces(tokenizer, "common ☃") == ["common", "[UNK]"]


def test_most_frequent_characters_win_where_room_is_short():
    tokenizer = train_tokenizer(["中中中中国国国人人"], vocab_size=7)
    assert tokenizer.vocabulary[5:] == ["中", "国"]


def test_cased_vocabularies_keep_capitals_and_accents():
    tokenizer = train_tokenizer(["Élan Élan"] * 3, vocab_size=60, lowercase=False)
    assert pieces(tokenizer, "Élan élan") == ["Élan", "[UNK]"]


def test_bpe_knows_every_text():
    tokenizer = train_tokenizer(CORPUS, "bpe", vocab_size=320)
    assert tokenizer.decode(tokenizer.encode(["☃ ünknown"]).ids) == "☃ ünknown"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(("use", "around"), [("decoder", [2]), ("seq2seq", [3])])
def test_tokenizers_of_models_that_write_put_their_tokens_around_texts(kind, use, around):
    tokenizer = train_tokenizer(CORPUS, kind, SIZES[kind], use=use)
    assert (tokenizer.encode([""]).ids.tolist(), tokenizer.bos_id, tokenizer.eos_id) == (around, 2, 3)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("use", ["decoder", "seq2seq"])
def test_models_that_write_keep_capitals_and_roles_after_saving(kind, use, tmp_path):
    tokenizer = train_tokenizer(CORPUS, kind, SIZES[kind], use=use)
    tokenizer.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.decode(loaded.encode(["The newest sand."]).ids).strip() == "The newest sand."


def test_wordpiece_is_for_encoders():
    with pytest.raises(ValueError, match="use='decoder' does not go with kind='wordpiece'; choose one of encoder"):
        train_tokenizer(CORPUS, use="decoder")


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind='words' is not known; choose one of wordpiece, bpe, unigram"):
        train_tokenizer(CORPUS, "words")


def test_single_string_is_refused():
    with pytest.raises(TypeError, match="into a list"):
        train_tokenizer("a text")


def test_vocabulary_without_room_is_refused():
    with pytest.raises(ValueError, match="vocab_size=200 is too small: bpe needs 261"):
        train_tokenizer(CORPUS, "bpe", vocab_size=200)


@pytest.mark.parametrize("kind", KINDS)
def test_corpus_without_words_is_refused(kind):
    with pytest.raises(ValueError, match="no word in the texts"):
        train_tokenizer(["", "  "], kind, vocab_size=300)


CHARACTERS = ["First line:\n  a  b, c.\n", "naïve 今天 🙂🙂", "First"]


@pytest.fixture(scope="module")
def characters():
    return train_tokenizer(CHARACTERS, "char", use="decoder", min_frequency=1)


def test_characters_come_back_with_all_spaces_and_line_breaks(characters):
    encoded = characters.encode(CHARACTERS)
    for number, text in enumerate(CHARACTERS):
        ids = encoded.ids[encoded.offsets[number] : encoded.offsets[number + 1]]
        assert len(ids) == len(text) + 1  # <s>
        assert characters.decode(ids) == text


def test_characters_are_numbered_in_order_behind_the_special_tokens(characters):
    assert characters.vocabulary == ["<pad>", "<unk>", "<s>", "</s>", *sorted(set("".join(CHARACTERS)))]


def test_rare_characters_and_those_beyond_the_vocabulary_are_unknown():
    tokenizer = train_tokenizer(["aaabbc"], "char", vocab_size=6, use="decoder")
    assert tokenizer.vocabulary[4:] == ["a", "b"]
    assert tokenizer.encode(["abcz"]).ids.tolist() == [2, 4, 5, 1, 1]


def test_characters_are_the_same_after_saving_and_in_the_graph(characters, tmp_path):
    from aillm_tf.text.graph import graph_tokenizer, mismatches

    characters.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.encode(CHARACTERS).ids.tolist() == characters.encode(CHARACTERS).ids.tolist()
    texts = [*CHARACTERS, "unseen Ω", "", "<s> </s>"]
    assert mismatches(characters, texts) == []
    graph = graph_tokenizer(characters, 64)
    assert [text.decode() for text in graph.decode(graph(CHARACTERS)["token_ids"]).numpy()] == CHARACTERS


def test_a_kept_tokenizer_is_trained_once_and_appears_whole(tmp_path, monkeypatch):
    folder, texts = tmp_path / "tokenizer", ["one two three"] * 3

    def torn(self, path):
        path.mkdir()
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr(Tokenizer, "save", torn)
        kept_tokenizer(folder, texts, kind="bpe", vocab_size=300)
    assert not folder.exists()
    kept = kept_tokenizer(folder, texts, kind="bpe", vocab_size=300)
    assert kept_tokenizer(folder, ["other texts"], kind="bpe", vocab_size=400).fingerprint == kept.fingerprint
