"""WordPiece as TensorFlow ops, for SavedModels that take strings: the same ids as `Tokenizer.encode`.

How equality comes about: BERT's clean-up (control characters, accents, case, Chinese characters, punctuation) maps each
character on its own. So the host's own rules are asked about every Unicode character once, and the answers are a table
that the graph looks up: no second implementation of Unicode that could differ. Words then go through
``tensorflow_text.FastWordpieceTokenizer`` (Song et al., 2021, https://arxiv.org/abs/2012.15524).

Edge cases, all as on the host: words of more than 100 characters are [UNK]; literal special tokens in a text
("[SEP]") are ordinary text, except the mask token, which is the mask token. Bytes that are not UTF-8 cannot be given to
the host; the graph reads them as ``bytes.decode(errors="replace")`` would.

The one known difference: runs of two or more combining marks that BERT does not drop (spacing marks such as U+1D16D
U+1D165, and marks newer than the Unicode 8 tables of the tokenizers library) are put into canonical order by the host
and left as they are by the graph. That shows only where both marks are in the vocabulary; otherwise the word is [UNK]
on both sides. `mismatches` finds such texts.
"""

import functools
import json
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import normalizers, pre_tokenizers

from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["graph_tokenizer", "mismatches"]

# No character is assigned in planes 4 to 13 in any version of Unicode, and planes 15 and 16 are for private use except
# for their last two code points, so one character stands for each of these stretches. Surrogates are no characters.
UNIFORM = (range(0x40000, 0xE0000), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
PROBED = (
    *(range(0, 0xD800), range(0xE000, 0x40000), range(0xE0000, 0xF0000)),
    *(range(0xFFFFE, 0x100000), range(0x10FFFE, 0x110000)),
)
PAGE = 256  # characters in a page of the two-stage table; most pages of Unicode are alike and stored once
MASK_MARK, OTHER_MARK = "\x01", "\x02"  # control characters, which the clean-up drops
SPACE = " "


def graph_tokenizer(tokenizer: Tokenizer, max_length: int) -> tf.Module:
    """The tokenizer as a tf.Module, to be an attribute of a module that is saved.

    Args:
        tokenizer: a WordPiece tokenizer with BERT's clean-up and special tokens.
        max_length: tokens of a row at most, special tokens counted.

    Returns:
        A module to call with text (batch,) string and, for pairs, a second (batch,) string. It answers
        {"token_ids": (batch, longest) int32, "segment_ids": (batch, longest) int32}, padded with the pad token to the
        longest row of the batch and truncated exactly like `Tokenizer.encode`.

    Raises:
        NotImplementedError: for BPE and Unigram, and for rules other than BERT's.
        ValueError: for a vocabulary with a token twice, or a max_length without room for the special tokens.

    Example:
        >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ed", "."]
        >>> tokenize = graph_tokenizer(Tokenizer.from_vocabulary(vocabulary), max_length=16)
        >>> tokenize(tf.constant(["Played.", "play"]))["token_ids"].numpy().tolist()
        [[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]]
    """
    return GraphTokenizer(tokenizer, max_length)


def mismatches(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts whose ids in the graph differ from those on the host: none, but for what the module text names.

    Args:
        tokenizer: a tokenizer that `graph_tokenizer` takes.
        texts: what to compare, e.g. the evaluation data of the model to be exported.
    """
    encoded = tokenizer.encode(texts)
    lengths = np.diff(encoded.offsets)
    tokenize = graph_tokenizer(tokenizer, max_length=int(lengths.max(initial=2)) + 1)
    call = tf.function(tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
    different = []
    for start in range(0, len(texts), 1024):
        rows = texts[start : start + 1024]
        answers = call(tf.constant([row.encode() for row in rows]))["token_ids"].numpy()
        for number, (text, answer) in enumerate(zip(rows, answers, strict=True), start):
            expected = encoded.ids[encoded.offsets[number] : encoded.offsets[number + 1]]
            padding = answer[len(expected) :]
            if not np.array_equal(answer[: len(expected)], expected) or (padding != tokenizer.pad_id).any():
                different.append(text)
    return different


class GraphTokenizer(tf.Module):
    """See `graph_tokenizer`."""

    def __init__(self, tokenizer: Tokenizer, max_length: int):
        super().__init__(name="graph_tokenizer")
        model = _check(tokenizer)
        tokenizer.check_max_length(max_length, pair=False)
        self.max_length = max_length
        self._pad, self._cls, self._sep = tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id
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
        page_of, pages, offsets, characters = _character_table(tokenizer, self._mask)
        self._page_of, self._pages = tf.constant(page_of), tf.constant(pages)
        self._offsets, self._characters = tf.constant(offsets), tf.constant(characters)

    def __call__(self, text: tf.Tensor, pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        texts = [text] if pair is None else [text, pair]
        room = self.max_length - 1 - len(texts)
        if room < 0:
            raise ValueError(
                f"max_length={self.max_length} has no room for the {1 + len(texts)} special tokens of a row"
            )
        # Strings live on the CPU; without this the integers between would travel to an accelerator and back.
        with tf.device("CPU:0"):
            segments = [self._tokens(text) for text in texts]
            kept = _truncate([tokens.row_lengths() for tokens in segments], room)
            lengths = tf.add_n(kept) + 1 + len(segments)
            # The 0 is for a batch without rows.
            position = tf.range(tf.reduce_max(tf.concat([lengths, [0]], 0)))[tf.newaxis]  # (1, longest)
            start = tf.ones_like(kept[0])[:, tf.newaxis]  # (batch, 1), of the segment in its row
            token_ids = tf.where(position < start, self._cls, self._pad)  # (batch, longest)
            segment_ids = tf.zeros_like(token_ids)
            for number, (tokens, length) in enumerate(zip(segments, kept, strict=True)):
                length = length[:, tf.newaxis]
                within = position - start  # (batch, longest), place in the segment
                values = tf.concat([tokens.values, [self._pad]], 0)
                source = tf.clip_by_value(tokens.row_starts()[:, tf.newaxis] + within, 0, tf.size(values, tf.int64) - 1)
                token_ids = tf.where((within >= 0) & (within < length), tf.gather(values, source), token_ids)
                token_ids = tf.where(within == length, self._sep, token_ids)
                segment_ids = tf.where((within >= 0) & (within <= length), number, segment_ids)
                start += length + 1
            return {"token_ids": token_ids, "segment_ids": segment_ids}

    def _tokens(self, text: tf.Tensor) -> tf.RaggedTensor:
        """(batch,) string to (batch, tokens) int32."""
        words = tf.strings.split(self._cleaned(text))  # (batch, words)
        too_long = tf.strings.length(words.values, unit="UTF8_CHAR") > self._longest_word
        # The library counts bytes where BERT counts characters: what is too long for both is unknown to both.
        checked = tf.where(too_long, "?" * (4 * self._longest_word + 1), words.values)
        tokens = self._wordpiece.tokenize(checked)  # (words of all rows, tokens)
        return tf.RaggedTensor.from_row_splits(
            tokens.values, tf.gather(tokens.row_splits, words.row_splits), validate=False
        )

    def _cleaned(self, text: tf.Tensor) -> tf.Tensor:
        """(batch,) string to (batch,) string of the host's normalised words, one space or more between them."""
        if self._mask is not None:
            text = tf.strings.regex_replace(text, MASK_MARK, OTHER_MARK)
            text = tf.strings.regex_replace(text, re.escape(self._mask), MASK_MARK)
        characters = tf.strings.unicode_decode(text, "UTF-8", errors="replace")  # (batch, characters)
        page = tf.gather(self._page_of, characters.values // PAGE)
        entry = tf.gather(self._pages, page * PAGE + characters.values % PAGE)
        entries = tf.RaggedTensor.from_row_splits(self._characters, self._offsets, validate=False)
        mapped = tf.gather(entries, entry)  # (characters of all rows, characters each becomes)
        rows = tf.gather(mapped.row_splits, characters.row_splits)
        return tf.strings.unicode_encode(tf.RaggedTensor.from_row_splits(mapped.values, rows, validate=False), "UTF-8")


def _truncate(lengths: list[tf.Tensor], room: int) -> list[tf.Tensor]:
    """How many tokens of each segment, (batch,) each, stay in a row with room for so many, special tokens not counted.

    Longest first, as the tokenizers library does it: where both segments must be cut they get half of the room each,
    and of an odd room the longer one, or the second of two equal ones, gets one token more.
    """
    if len(lengths) == 1:
        return [tf.minimum(lengths[0], room)]
    first, second = lengths
    shorter, longer = tf.minimum(first, second), tf.maximum(first, second)
    fits = shorter + longer <= room
    only_longer = 2 * shorter <= room
    keep_shorter = tf.where(fits | only_longer, shorter, room // 2)
    keep_longer = tf.where(fits, longer, tf.where(only_longer, room - shorter, room // 2 + room % 2))
    swapped = first > second
    return [tf.where(swapped, keep_longer, keep_shorter), tf.where(swapped, keep_shorter, keep_longer)]


def _check(tokenizer: Tokenizer) -> dict:
    """The description of the WordPiece model, after a look at everything the graph takes for granted."""
    if tokenizer.kind != "wordpiece":
        raise NotImplementedError(
            f"tokenization inside the graph is there for WordPiece only, and this tokenizer is {tokenizer.kind}; "
            "export with the 'tokens' signature and call Tokenizer.encode before it"
        )
    description = json.loads(tokenizer.json)
    for part, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        found = (description[part] or {}).get("type")
        if found != expected:
            raise NotImplementedError(f"the graph knows the {part} {expected}; tokenizer.json has {found}")
    if not description["normalizer"]["clean_text"]:
        raise NotImplementedError("the graph needs a BertNormalizer with clean_text, which drops control characters")
    model = description["model"]
    if len(model["vocab"]) != tokenizer.vocab_size or "" in model["vocab"]:
        empty = [index for index, token in enumerate(tokenizer.vocabulary) if token not in model["vocab"] or not token]
        raise ValueError(
            f"the graph needs every id to have one token of its own in the vocabulary; ids {empty[:5]} have none (a "
            "token that is there twice has only its last id). Make the lines of vocab.txt differ"
        )
    for token in description["added_tokens"]:
        mask = token["id"] == tokenizer.mask_id
        if not token["special"] or (mask and (token["normalized"] or token["single_word"])):
            raise NotImplementedError(f"the added token {token['content']!r} has rules the graph does not know")
    roles = {"pad": tokenizer.pad_id, "cls": tokenizer.cls_id, "sep": tokenizer.sep_id}
    if None in roles.values():
        raise NotImplementedError(f"the graph needs a pad, cls and sep token; this tokenizer has {roles}")
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    if tokenizer.encode([""]).ids.tolist() != [cls, sep] or tokenizer.encode([""], [""]).ids.tolist() != [
        cls,
        sep,
        sep,
    ]:
        raise NotImplementedError("the graph puts [CLS] A [SEP] B [SEP] around texts; tokenizer.json does otherwise")
    return model


def _character_table(tokenizer: Tokenizer, mask: str | None) -> tuple[np.ndarray, ...]:
    """What becomes of each character, as a two-stage table.

    Returns:
        page_of (0x110000 / PAGE,), pages (PAGE * distinct pages,), offsets (entries + 1,), characters; all int32.
        Character c becomes characters[offsets[e]:offsets[e + 1]], e = pages[page_of[c // PAGE] * PAGE + c % PAGE].
    """
    rules = json.loads(tokenizer.json)["normalizer"]
    becomes, kinds = _probe(**{rule: setting for rule, setting in rules.items() if rule != "type"})
    # Characters that no token has make a word unknown whichever they are, so that one can stand for all of them.
    alphabet = set("".join(tokenizer.vocabulary))
    stand_in = next(character for character in map(chr, range(0xE000, 0xF900)) if character not in alphabet)
    shown = {}
    for character, kind in kinds.items():
        letter = character if character in alphabet else stand_in
        shown[character] = {"space": SPACE, "alone": SPACE + letter + SPACE, "letter": letter}[kind]

    entries = {"": 0}
    table = np.zeros(0x110000, np.int32)
    for codepoint, text in becomes.items():
        entry = entries.setdefault("".join([shown[character] for character in text]), len(entries))
        table[codepoint] = entry
    for stretch in UNIFORM:
        table[stretch.start : stretch.stop] = table[stretch.start]
    if mask is not None:
        table[ord(MASK_MARK)] = entries.setdefault(SPACE + mask + SPACE, len(entries))

    pages, page_of = np.unique(table.reshape(-1, PAGE), axis=0, return_inverse=True)
    offsets = np.cumsum([0, *map(len, entries)])
    characters = np.array([ord(character) for entry in entries for character in entry])
    return tuple(part.astype(np.int32).reshape(-1) for part in (page_of, pages, offsets, characters))


@functools.lru_cache(maxsize=4)
def _probe(**rules: bool | None) -> tuple[dict[int, str], dict[str, str]]:
    """Asks the tokenizers library what BERT's clean-up makes of each character and where that breaks words.

    Args:
        rules: settings of a BertNormalizer.

    Returns:
        Normalised text by code point (PROBED, and the first of each stretch of UNIFORM), and for each character in
        these texts "space", "alone" (a word of its own) or "letter".
    """
    normalizer = normalizers.BertNormalizer(**rules)
    codepoints = [*(c for stretch in PROBED for c in stretch), *(stretch.start for stretch in UNIFORM)]
    becomes = {codepoint: normalizer.normalize_str(chr(codepoint)) for codepoint in codepoints}
    characters = sorted(set("".join(becomes.values())))
    # Between two letters, a letter joins them into one word, a space separates them and punctuation is a third word.
    words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str("a" + "a".join(characters) + "a")
    starts, ends = np.array([span for _, span in words]).T
    within = np.repeat(ends - starts, ends - starts)  # length of the word of each character that is in a word
    length = np.zeros(2 * len(characters) + 1, np.int64)
    length[np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])] = within
    kinds = {0: "space", 1: "alone"}
    return becomes, {c: kinds.get(size, "letter") for c, size in zip(characters, length[1::2].tolist(), strict=True)}
