"""Vocabularies from raw text: WordPiece, BPE, Unigram and single characters, by the ``tokenizers`` library.

Notable here:

* Chinese needs no word segmentation: every Chinese character is a word of its own.
* WordPiece and byte-level BPE give the same vocabulary in every run. For WordPiece the library alone does not (it
  numbers "##a", "##b", ... in the order of a hash table and breaks ties by number), so the characters are counted
  here first and given to it in a fixed order.
* Unigram finds the same pieces on the corpora tried, but its scores differ from run to run in the third decimal (the
  library sums in hash order). Train once and keep the saved folder.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from aillm_tf.text.backends import FAMILIES, Family, template
from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["kept_tokenizer", "train_tokenizer"]

SPECIAL_TOKENS = FAMILIES["bert"].roles
_WRITER = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}
# What stands around texts for a model that reads, one that goes on with a text, one that reads one and writes another.
USES = {
    "encoder": FAMILIES["bert"],
    "decoder": Family(_WRITER, single="{bos}:0 $A:0", pair="{bos}:0 $A:0 {bos}:1 $B:1"),
    "seq2seq": Family({**_WRITER, "mask": "<mask>"}, single="$A {eos}", pair="$A {eos} $B {eos}"),
}
CHINESE_CHARACTER = Regex(r"[\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{3FFFF}]")


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "wordpiece",
    vocab_size: int = 8192,
    lowercase: bool | None = None,
    min_frequency: int = 2,
    use: Literal["encoder", "decoder", "seq2seq"] = "encoder",
) -> Tokenizer:
    """Learns a vocabulary.

    Args:
        texts: the corpus. WordPiece reads it twice; an iterator that can be read only once is kept in memory.
        kind: "wordpiece" (BERT), "bpe" (byte-level, knows every text), "unigram", or "char" (every character is a
            token, spaces and line breaks too).
        vocab_size: tokens at most, special tokens counted; fewer where the corpus has no more to give.
        lowercase: lower-case the text; WordPiece then drops accents, too, as BERT does. None means yes for encoders;
            what a model writes should keep its capitals.
        min_frequency: what is seen less often gets no token (WordPiece: characters and merges; characters; BPE: merges;
            Unigram decides by likelihood alone).
        use: what the special tokens are for. "decoder" and "seq2seq" need a kind that loses no spaces: not WordPiece.

    Returns:
        A Tokenizer. "encoder": [PAD] = 0, [UNK] = 1, [CLS] = 2, [SEP] = 3, [MASK] = 4, and [CLS] and [SEP] stand around
        texts. "decoder": <pad> = 0, <unk> = 1, <s> = 2, </s> = 3, and <s> stands before texts. "seq2seq": these and
        <mask> = 4, and </s> stands after texts.

    Raises:
        ValueError: for an unknown kind or use, a vocab_size too small for the kind, or texts without a single word.

    Example:
        >>> tokenizer = train_tokenizer(["low lower lowest", "new newer newest"], vocab_size=40)
        >>> tokenizer.decode(tokenizer.encode(["newest low"]).ids)
        'newest low'

    Reference:
        WordPiece: Schuster and Nakajima, "Japanese and Korean Voice Search", 2012. BPE: Sennrich et al., 2016,
        https://arxiv.org/abs/1508.07909. Unigram: Kudo, 2018, https://arxiv.org/abs/1804.10959.
    """
    if isinstance(texts, str):
        raise TypeError("train_tokenizer takes the texts of a corpus; put the single text into a list")
    check(kind, vocab_size, use)
    lowercase = use == "encoder" if lowercase is None else lowercase
    return TRAINERS[kind](texts, vocab_size, lowercase, min_frequency, USES[use])


def check(kind: str, vocab_size: int, use: str) -> None:
    """Refuses what no texts could make good; see `train_tokenizer` for arguments and errors."""
    if kind not in TRAINERS:
        raise ValueError(f"kind={kind!r} is not known; choose one of {', '.join(TRAINERS)}")
    if use not in USES or (use != "encoder" and kind == "wordpiece"):
        allowed = "encoder" if kind == "wordpiece" else ", ".join(USES)
        raise ValueError(f"use={use!r} does not go with kind={kind!r}; choose one of {allowed}")
    smallest = len(USES[use].roles) + (256 if kind == "bpe" else 1)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size} is too small: {kind} needs {smallest} tokens before it learns any")


def kept_tokenizer(folder: Path, texts: Iterable[str], **options) -> Tokenizer:
    """The tokenizer in a folder of a run, where one that is resumed finds its own; at first it is trained.

    Args:
        folder: what does not exist yet appears whole or not at all.
        texts, **options: of `train_tokenizer`.
    """
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.part")
        train_tokenizer(texts, **options).save(partial)
        partial.replace(folder)
    return Tokenizer.from_folder(folder)


def _train_wordpiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool, min_frequency: int, family: Family
) -> Tokenizer:
    texts = list(texts) if iter(texts) is texts else texts
    bare = Tokenizer.from_vocabulary(list(SPECIAL_TOKENS.values()), lowercase=lowercase).backend()
    rules = {"normalizer": bare.normalizer, "pre_tokenizer": bare.pre_tokenizer}

    first = _alphabet(texts, **rules, room=vocab_size - len(SPECIAL_TOKENS), min_frequency=min_frequency)
    fixed = [*SPECIAL_TOKENS.values(), *first]
    alphabet = [token for token in first if not token.startswith("##")]

    learner = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk"]))
    learner.normalizer, learner.pre_tokenizer = rules["normalizer"], rules["pre_tokenizer"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=fixed,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    ids = learner.get_vocab(with_added_tokens=False)
    return Tokenizer.from_vocabulary(sorted(ids, key=ids.__getitem__), lowercase=lowercase)


def _alphabet(
    texts: Iterable[str],
    normalizer: normalizers.Normalizer,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    room: int,
    min_frequency: int,
) -> list[str]:
    """The most frequent characters, and "##" forms of those that can continue a word, that fit into room tokens."""
    raw = Counter()
    for text in texts:
        raw.update(text)
    counts = Counter()
    for character, count in raw.items():
        for normal in normalizer.normalize_str(character).strip():
            counts[normal] += count
    alphabet, continuing = [], []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        alone = len(pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(f"a{character}a"))) > 1
        if count < min_frequency or len(alphabet) + len(continuing) + (1 if alone else 2) > room:
            break
        alphabet.append(character)
        if not alone:
            continuing.append(f"##{character}")
    if not alphabet:
        raise ValueError(f"no word in the texts has a character that is there {min_frequency} times (min_frequency)")
    return sorted(alphabet) + sorted(continuing)


def _train_bpe(texts: Iterable[str], vocab_size: int, lowercase: bool, min_frequency: int, family: Family) -> Tokenizer:
    learner = tokenizers.Tokenizer(models.BPE())
    learner.normalizer = _normalizer(normalizers.NFC(), lowercase)
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(CHINESE_CHARACTER, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(family.roles.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _learn(learner, trainer, texts, family)


def _train_unigram(
    texts: Iterable[str], vocab_size: int, lowercase: bool, min_frequency: int, family: Family
) -> Tokenizer:
    learner = tokenizers.Tokenizer(models.Unigram())
    learner.normalizer = _normalizer(normalizers.NFKC(), lowercase)
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(CHINESE_CHARACTER, "isolated")]
    )
    learner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(family.roles.values()),
        unk_token=family.roles["unk"],
        show_progress=False,
    )
    return _learn(learner, trainer, texts, family)


def _normalizer(form: normalizers.Normalizer, lowercase: bool) -> normalizers.Normalizer:
    return normalizers.Sequence([form, normalizers.Lowercase()] if lowercase else [form])


def _learn(learner: tokenizers.Tokenizer, trainer: trainers.Trainer, texts: Iterable[str], family: Family) -> Tokenizer:
    texts = iter(texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise ValueError("there is no word in the texts to learn a vocabulary from")
    learner.train_from_iterator(chain([first], texts), trainer)
    learner.post_processor = template(family.single, family.pair, family.roles, learner.get_vocab())
    return Tokenizer(learner, family.roles)


def _train_characters(
    texts: Iterable[str], vocab_size: int, lowercase: bool, min_frequency: int, family: Family
) -> Tokenizer:
    normalizer = _normalizer(normalizers.NFC(), lowercase)
    counts = Counter(chain.from_iterable(normalizer.normalize_str(text) for text in texts))
    found = sorted((-count, character) for character, count in counts.items() if count >= min_frequency)
    if not found:
        raise ValueError(f"no character is in the texts {min_frequency} times (min_frequency)")
    characters = sorted(character for _, character in found[: vocab_size - len(family.roles)])
    vocabulary = {token: index for index, token in enumerate([*family.roles.values(), *characters])}
    # BPE without merges splits into characters
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=family.roles["unk"]))
    backend.normalizer = normalizer
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(list(family.roles.values()))
    backend.post_processor = template(family.single, family.pair, family.roles, vocabulary)
    return Tokenizer(backend, family.roles)


TRAINERS = {"wordpiece": _train_wordpiece, "bpe": _train_bpe, "unigram": _train_unigram, "char": _train_characters}
