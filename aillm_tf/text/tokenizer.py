"""Strings to token ids on the host, on the ``tokenizers`` library.

Notable here:

* One class for WordPiece, BPE and Unigram; what a task needs of a vocabulary (ids of the special tokens, which tokens
  continue a word) are attributes, so no task looks into the library below.
* Text cannot smuggle in structure: the literal texts of special tokens ("[SEP]", "</s>", "<|im_end|>", ...) are read
  as ordinary text. The mask token alone is recognised, as that is how one asks a masked language model to fill a gap:
  ``"Paris is the [MASK] of France."``. `aillm_tf.text.graph` does the same.
* A tokenizer carries no padding or truncation of its own; lengths belong to the call and to the batch.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tokenizers

from aillm_tf.text.backends import FAMILIES, OTHER_SIDE, wordpiece
from aillm_tf.text.encoding import Encoded, EncodedSpans, batches, paired, token_spans, whole_spans, without_start
from aillm_tf.text.tokenizer_json import (
    ROLES,
    continuing,
    find_roles,
    language_around,
    renamed,
    with_language,
    writes_spaces,
)

if TYPE_CHECKING:
    from aillm_tf.text.chat import Conversation

__all__ = ["Encoded", "EncodedSpans", "Tokenizer"]

KINDS = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram"}
SHAPE = re.compile(r"<.+>|\[.+\]")  # of special tokens


class Tokenizer:
    """A vocabulary with its rules: text to ids and back.

    Attributes: ``json`` (tokenizer.json as canonical text), ``kind`` ("wordpiece", "bpe", "unigram"), ``vocabulary``
    (tokens by id), ``vocab_size``, ``special_tokens`` (role to token), ``special_ids``, ``structural_ids`` (those of
    them that no text becomes: all but the mask), ``other_side`` (piece to id, see vocab_size), and the arguments.

    Args:
        backend: a ``tokenizers.Tokenizer``. It is copied; padding and truncation set in it are dropped.
        special_tokens: role ("pad", "unk", "cls", "sep", "mask", "bos", "eos") to token. For roles not given the usual
            names ("[PAD]", "<pad>", ...) are looked up in the vocabulary.
        vocab_size: Marian: ids from here on are of pieces that its SentencePiece file has and its vocabulary has not,
            so they are unknown. An unknown piece that is in the vocabulary for the other side is that token.
        settings: what of tokenizer_config.json is kept for others: "padding_side", "model_max_length", "src_lang", ...
        chat_template: Jinja text that writes a conversation out, or such texts by name.
        files: name to bytes of files to be written back as they were read (``*.model``, ``*.spm``).

    Raises:
        ValueError: for a model other than WordPiece, BPE and Unigram, or a special token the vocabulary lacks.

    Example:
        >>> tokenizer = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ed", "."])
        >>> encoded = tokenizer.encode(["Played.", "play"])
        >>> encoded.ids.tolist(), encoded.offsets.tolist()
        ([2, 5, 6, 7, 3, 2, 5, 3], [0, 5, 8])
        >>> tokenizer.decode([2, 5, 6, 7, 3])
        'played.'
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        *,
        vocab_size: int | None = None,
        settings: Mapping[str, Any] | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
    ):
        # The library reads some scores of Unigram one bit off what it wrote, once; after that they stay.
        description = json.loads(tokenizers.Tokenizer.from_str(backend.to_str()).to_str())
        description["padding"] = description["truncation"] = None
        self.json = json.dumps(description, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        model = description["model"]["type"]
        if model not in KINDS:
            raise ValueError(f"tokenizer model {model!r} is not supported; choose one of {', '.join(KINDS)}")
        self.kind: str = KINDS[model]
        self.settings, self.chat_template, self.files = dict(settings or {}), chat_template, dict(files or {})
        ids = {token: i for token, i in backend.get_vocab(with_added_tokens=True).items() if i < (vocab_size or i + 1)}
        self.other_side = {t.removeprefix(OTHER_SIDE): i for t, i in ids.items() if t.startswith(OTHER_SIDE)}
        self.vocab_size: int = vocab_size or max(ids.values(), default=-1) + 1
        self.vocabulary: list[str] = [""] * self.vocab_size  # "" where a vocabulary had a line twice
        for token, index in ids.items():
            self.vocabulary[index] = token.removeprefix(OTHER_SIDE)
        added = {token["id"] for token in description["added_tokens"] if token["special"]}
        self.special_tokens: dict[str, str] = find_roles(backend, ids, added, dict(special_tokens or {}))
        self._ids = {role: ids[token] for role, token in self.special_tokens.items()}
        self.special_ids: list[int] = sorted(added | set(self._ids.values()))
        # A role may be given to an ordinary token ("!" for padding), which texts do hold.
        named = {self._ids[role] for role, token in self.special_tokens.items() if SHAPE.fullmatch(token)}
        self.structural_ids: list[int] = sorted((added | named) - {self.mask_id})
        self.shares_vocabulary: bool = vocab_size is not None  # Marian: two sides, one vocabulary
        self._nonce = secrets.token_hex(8)
        self._backends: dict[tuple, tokenizers.Tokenizer] = {}

    @property
    def pad_id(self) -> int | None:
        return self._ids.get("pad")

    @property
    def unk_id(self) -> int | None:
        return self._ids.get("unk")

    @property
    def cls_id(self) -> int | None:
        return self._ids.get("cls")

    @property
    def sep_id(self) -> int | None:
        return self._ids.get("sep")

    @property
    def mask_id(self) -> int | None:
        return self._ids.get("mask")

    @property
    def bos_id(self) -> int | None:
        return self._ids.get("bos")

    @property
    def eos_id(self) -> int | None:
        return self._ids.get("eos")

    @property
    def padding_side(self) -> Literal["right", "left"]:
        """Where the family fills up the rows of a batch; "left" for decoders that answer."""
        return self.settings.get("padding_side", "right")

    @classmethod
    def from_folder(cls, path: str | PathLike, side: Literal["source", "target"] = "source") -> Tokenizer:
        """Reads a tokenizer as Hugging Face folders hold it.

        Args:
            path: a folder, or one of the files itself. The first of these counts: source.spm and target.spm with
                vocab.json (Marian), tokenizer.json, a SentencePiece ``*.model``, vocab.json with merges.txt, vocab.txt.
                tokenizer_config.json, special_tokens_map.json, added_tokens.json and the model_type in config.json
                beside it say which family it is and name the special tokens. For a bare vocab.txt a vocabulary without
                capital letters means lower-casing.
            side: of a translation. Marian has a vocabulary for each; mBART puts another language code around texts.

        Raises:
            FileNotFoundError: when there is none of these files, or one of two is missing.
            ValueError: when a file cannot be read as what its name says.

        Example:
            >>> Tokenizer.from_folder("bert-base-uncased").special_tokens["sep"]  # doctest: +SKIP
            '[SEP]'
        """
        from aillm_tf.text.files import read_folder

        tokenizer = cls(**read_folder(path, side))
        language = tokenizer.settings.get("tgt_lang" if side == "target" else "src_lang")
        around = language_around(json.loads(tokenizer.json))
        return tokenizer if None in (language, around) else tokenizer.for_language(language)

    @classmethod
    def from_vocabulary(
        cls,
        vocabulary: Sequence[str],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        special_tokens: Mapping[str, str] | None = None,
    ) -> Tokenizer:
        """BERT's WordPiece over a list of tokens.

        Args:
            vocabulary: tokens by id; "##" starts a token that continues a word.
            lowercase: lower-case the text.
            strip_accents: drop accents; None means "when lower-casing", as in BERT.
            split_chinese: each Chinese character is a word.
            special_tokens: role to token, where they are not "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]".

        Raises:
            ValueError: when the tokens for unk, cls or sep are missing.

        Reference:
            Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019, https://arxiv.org/abs/1810.04805
        """
        ids = {token: index for index, token in enumerate(vocabulary)}
        roles = {**FAMILIES["bert"].roles, **(special_tokens or {})}
        missing = [roles[role] for role in ("unk", "cls", "sep") if roles[role] not in ids]
        if missing:
            raise ValueError(f"a vocabulary of {len(vocabulary)} tokens lacks {', '.join(missing)}, which BERT needs")
        roles = {role: token for role, token in roles.items() if token in ids}
        return cls(wordpiece(ids, roles, lowercase, strip_accents, split_chinese), roles)

    @cached_property
    def continuation(self) -> np.ndarray:
        """bool (vocab,): the token continues the word before it, as whole-word masking needs it.

        WordPiece marks continuations ("##ed"), BPE and Unigram mark beginnings ("Ġplay", "▁play"). In these a token
        that starts with a Chinese character begins a word, too, and so does one that starts with white space (a line
        break). Special tokens never continue one.
        """
        flags = np.array(continuing(json.loads(self.json), self.vocabulary), bool)
        flags[self.special_ids] = False
        return flags

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the canonical tokenizer.json, in hex: equal for tokenizers that encode alike."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def backend(
        self, max_length: int | None = None, truncate: str = "longest_first", stride: int = 0
    ) -> tokenizers.Tokenizer:
        """The library's tokenizer that truncates to max_length tokens (None: never). Not to be changed."""
        key = (max_length, truncate, stride)
        if key not in self._backends:
            names = {self.vocabulary[index]: self.hidden_name(index) for index in self.structural_ids}
            backend = tokenizers.Tokenizer.from_str(json.dumps(renamed(json.loads(self.json), names)))
            if max_length is not None:
                backend.enable_truncation(max_length, stride=stride, strategy=truncate)
            self._backends[key] = backend
        return self._backends[key]

    def hidden_name(self, index: int) -> str:
        """What a special token is called in `backend`: drawn anew in each process, so that no text can hold it."""
        return f"\ufdd0{self._nonce}{index}\ufdd1"

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> Encoded:
        """Texts to ids, with the special tokens around them ([CLS] text [SEP] pair [SEP] for BERT).

        Args:
            texts: the rows.
            pairs: the second text of each row, if any.
            max_length: tokens of a row at most, special tokens counted. The longer text of a pair is cut first.

        Returns:
            Encoded: flat ids, segment ids and row offsets.

        Raises:
            TypeError: for one string in place of a sequence, or a row that is no string.
            ValueError: when texts and pairs differ in number, max_length has no room for the special tokens, or a row
                cannot be written as UTF-8; the row is named.
        """
        rows = paired(texts, pairs)
        self.check_max_length(max_length, pair=pairs is not None)
        backend = self.backend(max_length)
        ids, segment_ids, lengths = [], [], [np.zeros(1, np.int64)]
        # The fast way does without the places of tokens, which tell how an unknown piece is spelt.
        encode = backend.encode_batch if self.shares_vocabulary else backend.encode_batch_fast
        for batch, encodings in batches(encode, rows):
            sizes = np.fromiter(map(len, encodings), np.int64, len(encodings))
            tokens = int(sizes.sum())
            ids.append(np.fromiter(chain.from_iterable(map(self._row_ids, encodings, batch)), np.int32, tokens))
            segment_ids.append(np.fromiter(chain.from_iterable(row.type_ids for row in encodings), np.int32, tokens))
            lengths.append(sizes)
        none = np.zeros(0, np.int32)
        return Encoded(
            np.concatenate([none, *ids]), np.concatenate([none, *segment_ids]), np.cumsum(np.concatenate(lengths))
        )

    def encode_spans(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        truncate: Literal["longest", "first", "second"] = "longest",
        stride: int = 0,
    ) -> EncodedSpans:
        """Texts to ids and the characters each token stands for, for tagging and extractive question answering.

        Args:
            texts, pairs, max_length: as in `encode`.
            truncate: "longest" cuts as `encode` does. "first" and "second" cut that text alone, and what was cut off
                follows in further rows, each with the other text in full.
            stride: tokens of the text that such rows share with the one before.

        Raises:
            TypeError, ValueError: as `encode` does; or a row's other text leaves no room within max_length.

        Example:
            >>> tokenizer = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ed", "."])
            >>> tokenizer.encode_spans(["Played ."]).spans.tolist()
            [[0, 0], [0, 4], [4, 6], [7, 8], [0, 0]]
        """
        rows = paired(texts, pairs)
        self.check_max_length(max_length, pair=pairs is not None)
        windows = truncate != "longest"
        backend = self.backend(max_length, f"only_{truncate}" if windows else "longest_first", stride)
        found = []
        number = -1
        for batch, encodings in batches(backend.encode_batch, [without_start(row, self._normalized) for row in rows]):
            for source, encoding in zip(batch, encodings, strict=True):
                number += 1
                for row in [encoding, *(encoding.overflowing if windows else ())]:
                    spans, text_ids = whole_spans(row, source, rows[number], self.space_ids)
                    found.append((self._row_ids(row, source), row.type_ids, spans, text_ids, number))
        ids, segments, spans, text_ids, numbers = zip(*found, strict=True) if found else [()] * 5
        none = np.zeros(0, np.int32)
        return EncodedSpans(
            np.concatenate([none, *ids]).astype(np.int32),
            np.concatenate([none, *segments]).astype(np.int32),
            np.cumsum([0, *map(len, ids)], dtype=np.int64),
            np.concatenate([np.zeros((0, 2), np.int32), *spans]),
            np.concatenate([np.zeros(0, np.int8), *text_ids]),
            np.array(numbers, np.int64),
        )

    def _row_ids(self, encoding: tokenizers.Encoding, row: str | tuple[str, str]) -> list[int]:
        if not self.shares_vocabulary:
            return encoding.ids
        texts = row if isinstance(row, tuple) else (row,)
        spans, text_ids = token_spans(encoding, texts)
        ids = np.array(encoding.ids)
        for place in np.flatnonzero((text_ids >= 0) & ((ids == self.unk_id) | (ids >= self.vocab_size))):
            start, end = spans[place]
            piece = self._normalized(texts[text_ids[place]][start:end])
            ids[place] = self.other_side.get(piece, self.unk_id)
        return ids.tolist()

    def _normalized(self, text: str) -> str:
        normalizer = self.backend().normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    @cached_property
    def space_ids(self) -> list[int]:
        """Tokens that stand for spaces alone: "▁" and its like, where spaces are written so."""
        spaces = "▁" if writes_spaces(json.loads(self.json)) else ""
        return [index for index, token in enumerate(self.vocabulary) if spaces and token and not token.strip(spaces)]

    def check_max_length(self, max_length: int | None, pair: bool) -> None:
        """Raises ValueError when rows of max_length tokens have no room for the special tokens."""
        special = self.backend().num_special_tokens_to_add(pair)
        if max_length is not None and max_length < max(special, 1):
            raise ValueError(f"max_length={max_length} has no room for the {special} special tokens of a row")

    @cached_property
    def _decoder(self) -> tokenizers.Tokenizer:
        names = {OTHER_SIDE + token: token for token in self.other_side}
        return tokenizers.Tokenizer.from_str(json.dumps(renamed(json.loads(self.json), names)))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids to text.

        Args:
            ids: of one row. Bytes that make no character become U+FFFD; see `aillm_tf.text.stream` for ids that come
                one by one.
            skip_special_tokens: leave special tokens out, except the mask token.
        """
        left_out = set(self.structural_ids) if skip_special_tokens else ()
        kept = [int(index) for index in ids if int(index) not in left_out]
        text = self._decoder.decode(kept, skip_special_tokens=False)
        # An unknown word leaves its space behind; Marian is the family whose readers drop it.
        return text.strip() if self.shares_vocabulary else text

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        template: str = "default",
        **variables: Any,
    ) -> Conversation:
        """A conversation to ids, as the model's chat template writes it.

        Args:
            messages: {"role": "user" | "assistant" | "system" | ..., "content": text}.
            tools: JSON schemas of what the model may call.
            add_generation_prompt: end with the beginning of an answer, which the model goes on with.
            template: which one, where a model has several.
            variables: what else the template asks for.

        Returns:
            Conversation: ids, and which of them are answers. No token is one where the template has no
            ``{% generation %}`` block and writes earlier turns anew with every turn.

        Raises:
            ValueError: there is no template, or it refuses the messages.

        Example:
            >>> messages = [{"role": "user", "content": "Hello"}]
            >>> tokenizer.chat(messages, add_generation_prompt=True).ids  # doctest: +SKIP
        """
        from aillm_tf.text.chat import encode_chat

        return encode_chat(
            self,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template=template,
            variables=variables,
        )

    def for_language(self, code: str) -> Tokenizer:
        """The tokenizer for texts of another language (mBART): its code takes the place of the present one.

        Raises:
            ValueError: the vocabulary has no such token, or no language code stands around texts.

        Example:
            >>> tokenizer.for_language("de_DE").encode(["Guten Tag"])  # doctest: +SKIP
        """
        changed = with_language(json.loads(self.json), code, self.vocabulary)
        return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(changed)), **self._rest())

    def with_special_tokens(self, **roles: str) -> Tokenizer:
        """The tokenizer with other special tokens.

        Args:
            roles: role to token, e.g. ``pad="<|endoftext|>"`` for GPT-2, which has no token for padding. A token that
                the vocabulary lacks is added at its end; the model's embedding has to grow with it.
        """
        unknown = sorted(set(roles) - set(ROLES))
        if unknown:
            raise ValueError(f"no such role: {', '.join(unknown)}; roles are {', '.join(ROLES)}")
        backend = tokenizers.Tokenizer.from_str(self.json)
        backend.add_special_tokens([token for token in roles.values() if token not in self.vocabulary])
        return Tokenizer(backend, **{**self._rest(), "special_tokens": {**self.special_tokens, **roles}})

    def padded(self) -> Tokenizer:
        """The tokenizer with its end token for padding, where it has no token for that: GPT-2, Llama.

        The vocabulary stays the same. What fills up a row is masked, so its token says nothing.
        """
        if self.pad_id is not None or self.eos_id is None:
            return self
        return self.with_special_tokens(pad=self.vocabulary[self.eos_id])

    def save(self, folder: str | PathLike) -> None:
        """Writes the files that `from_folder` and ``transformers.AutoTokenizer.from_pretrained`` read.

        These are tokenizer.json (for Marian source.spm, target.spm and vocab.json), tokenizer_config.json, what else
        the kind has (vocab.txt; vocab.json and merges.txt; the SentencePiece file), and the chat template.
        transformers makes special tokens of their literal texts; apart from that the ids are the same.
        """
        from aillm_tf.text.files import write_folder

        write_folder(self, folder)

    def _rest(self) -> dict[str, Any]:
        kept = ("special_tokens", "settings", "chat_template", "files", *["vocab_size"] * self.shares_vocabulary)
        return {name: getattr(self, name) for name in kept}

    def __reduce__(self):
        return _from_json, (self.json, self._rest())

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, special_tokens={self.special_tokens})"


def _from_json(description: str, rest: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(description), **rest)
