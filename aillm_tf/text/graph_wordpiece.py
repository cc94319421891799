"""WordPiece with BERT's clean-up as TensorFlow ops, with the place of each token in its text.

How equality comes about: the clean-up (control characters, accents, case, Chinese characters, punctuation) maps each
character on its own. So the host's own rules are asked about every Unicode character once, and the answers are a table
that the graph looks up: no second implementation of Unicode that could differ. Words then go through
``tensorflow_text.FastWordpieceTokenizer`` (Song et al., 2021, https://arxiv.org/abs/2012.15524). Words of more than 100
characters are [UNK], as on the host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from unicodedata import category

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import pre_tokenizers

from aillm_tf.text.graph_characters import (
    CODE_POINTS,
    CharacterMap,
    Characters,
    CharacterTable,
    decode,
    encode,
    keep,
    normalized_characters,
    ragged,
    starts_of,
)
from aillm_tf.text.tokenizer import Tokenizer

MASK_MARK, OTHER_MARK = "\x01", "\x02"  # control characters, which the clean-up drops
SPACE = " "


class WordPieceTokens(tf.Module):
    """Texts to tokens, without the special tokens around them.

    Args:
        tokenizer: WordPiece with BERT's clean-up.
        description: its tokenizer.json.

    Raises:
        NotImplementedError: for rules other than BERT's.
        ValueError: for a vocabulary with a token twice.
    """

    def __init__(self, tokenizer: Tokenizer, description: Mapping):
        super().__init__()
        _check(tokenizer, description)
        model = description["model"]
        self._mask = None if tokenizer.mask_id is None else tokenizer.vocabulary[tokenizer.mask_id]
        self._longest_word = model["max_input_chars_per_word"]
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            tokenizer.vocabulary,
            suffix_indicator=model["continuing_subword_prefix"],
            max_bytes_per_word=4 * self._longest_word,
            token_out_type=tf.int32,
            unknown_token=model["unk_token"],
            no_pretokenization=True,
        )
        self._map = _clean_up(tokenizer, self._mask)
        # As `Tokenizer.encode_spans` has it.
        marks = [category(chr(code))[0] == "M" or 0x1160 <= code <= 0x11FF for code in range(CODE_POINTS)]
        self._marks = CharacterTable(np.array(marks))

    def __call__(self, text: tf.Tensor) -> tf.RaggedTensor:
        """(texts,) string to (texts, tokens) int32."""
        words, rows, _ = self._words(self._marked(text))
        tokens = self._wordpiece.tokenize(words)  # (words of all texts, tokens)
        return ragged(tokens.values, tf.gather(tokens.row_splits, rows))

    def with_offsets(self, text: tf.Tensor) -> dict[str, tf.RaggedTensor]:
        """As the call, {"token_ids", "starts", "ends"}: the token stands for the characters text[start:end]."""
        marked = self._marked(text)
        words, rows, (letters, origin, begins, too_long) = self._words(marked)
        tokens, first_byte, last_byte = self._wordpiece.tokenize_with_offsets(words)
        splits = tf.gather(tokens.row_splits, rows)

        # Bytes of words to characters of the texts, counted over all texts; a word that is too long went through as
        # another one.
        word = tokens.value_rowids()
        widths = 1 + sum(tf.cast(letters.codes >= least, tf.int64) for least in (0x80, 0x800, 0x10000))
        letter_of = tf.repeat(tf.range(tf.size(letters.codes, tf.int64)), widths)
        word_byte = tf.gather(tf.concat([[0], tf.cumsum(widths)], 0), tf.gather(begins, word))
        overlong = tf.gather(too_long, word)
        spots = []
        for byte, whole in ((first_byte.values, begins[:-1]), (last_byte.values - 1, begins[1:] - 1)):
            place = tf.gather(letter_of, tf.where(~overlong, word_byte + tf.cast(byte, tf.int64), 0))
            spots.append(tf.gather(origin, tf.where(overlong, tf.gather(whole, word), place)))
        starts, ends = spots[0], spots[1] + 1
        # Marks that the clean-up drops belong to the letter before them.
        plain = tf.concat([self._marks(marked.codes) == 0, [True]], 0)
        number = tf.cumsum(tf.cast(plain, tf.int64), exclusive=True)
        past_marks = tf.gather(tf.where(plain)[:, 0], tf.gather(number, ends))
        beyond = tf.size(marked.codes, tf.int64)
        following = tf.gather(tf.concat([starts, [beyond]], 0), tf.searchsorted(starts, ends))
        row = tf.repeat(tf.range(tf.size(splits) - 1), splits[1:] - splits[:-1])
        ends = tf.minimum(tf.minimum(past_marks, following), tf.gather(marked.splits, row + 1))
        # The mask token was one character on the way.
        length = tf.ones_like(marked.codes)
        if self._mask is not None:
            length = tf.where(marked.codes == ord(MASK_MARK), len(self._mask), length)
        after = tf.concat([[0], tf.cumsum(length)], 0)
        base = tf.gather(after, tf.gather(marked.splits, row))
        columns = {
            "token_ids": tokens.values,
            "starts": tf.gather(after, starts) - base,
            "ends": tf.gather(after, ends) - base,
        }
        return {name: ragged(column, splits) for name, column in columns.items()}

    def _marked(self, text: tf.Tensor) -> Characters:
        """The characters, with one mark for every mask token."""
        if self._mask is not None:
            text = tf.strings.regex_replace(text, MASK_MARK, OTHER_MARK)
            text = tf.strings.regex_replace(text, re.escape(self._mask), MASK_MARK)
        return decode(text)

    def _words(self, marked: Characters) -> tuple[tf.Tensor, tf.Tensor, tuple]:
        """Cleans texts and cuts them into words.

        Returns:
            The words (words,) string; where those of each text begin, (texts + 1,); and what offsets are made of: the
            letters of the words, the index of the character that each came from, where each word begins, (words + 1,),
            and whether it is too long.
        """
        cleaned, origin = self._map.expand(marked, self._map.entries(marked.codes))
        letter = cleaned.codes != ord(SPACE)
        starts = letter & (starts_of(cleaned) | tf.concat([[True], ~letter[:-1]], 0)[: tf.size(letter)])
        letters, starts = keep(cleaned, letter), tf.boolean_mask(starts, letter)
        begins = tf.concat([tf.where(starts)[:, 0], [tf.size(starts, tf.int64)]], 0)
        rows = tf.gather(tf.concat([[0], tf.cumsum(tf.cast(starts, tf.int64))], 0), letters.splits)
        # The library counts bytes where BERT counts characters: what is too long for BERT is made so for both.
        too_long = begins[1:] - begins[:-1] > self._longest_word
        words = tf.where(too_long, "?" * (4 * self._longest_word + 1), encode(Characters(letters.codes, begins)))
        return words, rows, (letters, tf.boolean_mask(origin, letter), begins, too_long)


def _check(tokenizer: Tokenizer, description: Mapping) -> None:
    """Looks at everything the graph takes for granted."""
    for part, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        found = (description[part] or {}).get("type")
        if found != expected:
            raise NotImplementedError(
                f"for WordPiece the graph knows the {part} {expected}; tokenizer.json has {found}"
            )
    if not description["normalizer"]["clean_text"]:
        raise NotImplementedError("the graph needs a BertNormalizer with clean_text, which drops control characters")
    vocab = description["model"]["vocab"]
    if len(vocab) != tokenizer.vocab_size or "" in vocab:
        empty = [index for index, token in enumerate(tokenizer.vocabulary) if token not in vocab or not token]
        raise ValueError(
            f"the graph needs every id to have one token of its own in the vocabulary; ids {empty[:5]} have none (a "
            "token that is there twice has only its last id). Make the lines of vocab.txt differ"
        )
    for token in description["added_tokens"]:
        rules = ("normalized", "single_word", "lstrip", "rstrip") if token["id"] == tokenizer.mask_id else ()
        if not token["special"] or any(token[rule] for rule in rules):
            raise NotImplementedError(f"the added token {token['content']!r} has rules the graph does not know")


def _clean_up(tokenizer: Tokenizer, mask: str | None) -> CharacterMap:
    """What becomes of each character; spaces stand around what is a word of its own."""
    becomes = normalized_characters(json.dumps(json.loads(tokenizer.json)["normalizer"], sort_keys=True))
    # Characters that no token has make a word unknown whichever they are, so that one can stand for all of them.
    alphabet = set("".join(tokenizer.vocabulary))
    stand_in = next(character for character in map(chr, range(0xE000, 0xF900)) if character not in alphabet)
    shown = {}
    for character, kind in _kinds("".join(sorted(set("".join(becomes.values()))))).items():
        letter = character if character in alphabet else stand_in
        shown[character] = {"space": SPACE, "alone": SPACE + letter + SPACE, "letter": letter}[kind]
    shown_as = {code: "".join([shown[character] for character in text]) for code, text in becomes.items()}
    if mask is not None:
        shown_as[ord(MASK_MARK)] = SPACE + mask + SPACE
    return CharacterMap(shown_as)


def _kinds(characters: str) -> dict[str, str]:
    """Asks the library where characters break words: each is a "space", "alone" (a word of its own) or a "letter"."""
    # Between two letters, a letter joins them into one word, a space separates them and punctuation is a third word.
    words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str("a" + "a".join(characters) + "a")
    starts, ends = np.array([span for _, span in words]).T
    within = np.repeat(ends - starts, ends - starts)  # length of the word of each character that is in a word
    length = np.zeros(2 * len(characters) + 1, np.int64)
    length[np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])] = within
    kinds = {0: "space", 1: "alone"}
    return {c: kinds.get(size, "letter") for c, size in zip(characters, length[1::2].tolist(), strict=True)}
