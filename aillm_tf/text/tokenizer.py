"""Strings to token ids on the host, on the ``tokenizers`` library.

Notable here:

* One class for WordPiece, BPE and Unigram; what a task needs of a vocabulary (ids of the special tokens, which tokens
  continue a word) are attributes, so no task looks into the library below.
* Text cannot smuggle in structure: the literal texts of special tokens ("[SEP]", "[CLS]", "</s>", ...) are read as
  ordinary text. The mask token alone is recognised, as that is how one asks a masked language model to fill a gap:
  ``"Paris is the [MASK] of France."``. `aillm_tf.text.graph` does the same.
* A tokenizer carries no padding or truncation of its own; lengths belong to the call and to the batch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

__all__ = ["Encoded", "Tokenizer"]

KINDS = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram"}
ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
USUAL_TOKENS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
# Rows handed to the library at once: its answers take some hundred bytes a token until they are copied out.
ROWS_AT_ONCE = 4096


class Encoded(NamedTuple):
    """Token ids of many rows, end to end. Row i is ``ids[offsets[i]:offsets[i + 1]]``.

    Args:
        ids: int32 (tokens,).
        segment_ids: int32 (tokens,), 0 for the first text with its special tokens, 1 for the second.
        offsets: int64 (rows + 1,), the first is 0.
    """

    ids: np.ndarray
    segment_ids: np.ndarray
    offsets: np.ndarray


class Tokenizer:
    """A vocabulary with its rules: text to ids and back.

    Args:
        backend: a ``tokenizers.Tokenizer``. It is copied; padding and truncation set in it are dropped.
        special_tokens: role ("pad", "unk", "cls", "sep", "mask", "bos", "eos") to token. For roles not given the usual
            names ("[PAD]", "<pad>", ...) are looked up in the vocabulary.

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

    def __init__(self, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str] | None = None):
        description = json.loads(backend.to_str())
        description["padding"] = description["truncation"] = None
        self.json = json.dumps(description, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        model = description["model"]["type"]
        if model not in KINDS:
            raise ValueError(f"tokenizer model {model!r} is not supported; choose one of {', '.join(KINDS)}")
        self.kind: str = KINDS[model]
        ids = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(ids.values(), default=-1) + 1
        # An id that no token has (a vocabulary with a line twice) keeps an empty string.
        self.vocabulary: list[str] = [""] * self.vocab_size
        for token, index in ids.items():
            self.vocabulary[index] = token
        special_tokens = dict(special_tokens or {})
        for role, token in special_tokens.items():
            if token not in ids:
                raise ValueError(f"the {role} token {token!r} is not in the vocabulary of {len(ids)} tokens")
        for role, names in USUAL_TOKENS.items():
            found = [name for name in names if name in ids]
            if role not in special_tokens and found:
                special_tokens[role] = found[0]
        self.special_tokens: dict[str, str] = {role: special_tokens[role] for role in ROLES if role in special_tokens}
        self._ids = {role: ids[token] for role, token in self.special_tokens.items()}
        added = {token["id"] for token in description["added_tokens"] if token["special"]}
        self.special_ids: list[int] = sorted(added | set(self._ids.values()))
        self._backends: dict[int | None, tokenizers.Tokenizer] = {}

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

    @classmethod
    def from_folder(cls, path: str | PathLike) -> "Tokenizer":
        """Reads a tokenizer as Hugging Face folders hold it.

        Args:
            path: a folder with tokenizer.json or, failing that, vocab.txt (WordPiece); or one of these files itself.
                tokenizer_config.json and special_tokens_map.json beside it name the special tokens. For vocab.txt they
                also say do_lower_case, strip_accents and tokenize_chinese_chars; where do_lower_case is not said, a
                vocabulary without capital letters means lower-casing.

        Raises:
            FileNotFoundError: when there is neither file.
            ValueError: when a file cannot be read as what its name says.
        """
        path = Path(path)
        folder = path.parent if path.is_file() else path
        config = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                config |= _read_json(folder / name)
        # transformers writes a token as a string or as {"content": string, ...}.
        given = {role: config.get(f"{role}_token") for role in ROLES}
        given = {role: token["content"] if isinstance(token, dict) else token for role, token in given.items()}

        candidates = [path] if path.is_file() else [folder / "tokenizer.json", folder / "vocab.txt"]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else "no such folder"
            raise FileNotFoundError(f"{path}: neither tokenizer.json nor vocab.txt is there (found: {there})")
        if file.suffix == ".json":
            try:
                backend = tokenizers.Tokenizer.from_file(str(file))
            except Exception as error:  # the library raises plain Exception
                raise ValueError(f"{file}: not a tokenizer.json of the tokenizers library ({error})") from error
            known = backend.get_vocab(with_added_tokens=True)
            # Folders name tokens their vocabulary lacks (a pad token nobody added); such a role is left out.
            return cls(backend, {role: token for role, token in given.items() if token in known})

        lines = _read_text(file).split("\n")
        vocabulary = lines[:-1] if lines[-1] == "" else lines
        lowercase = config.get("do_lower_case")
        if lowercase is None:
            words = (token for token in vocabulary if not token.startswith("["))
            lowercase = not any("A" <= letter <= "Z" for word in words for letter in word)
        return cls.from_vocabulary(
            vocabulary,
            lowercase=lowercase,
            strip_accents=config.get("strip_accents"),
            split_chinese=config.get("tokenize_chinese_chars", True),
            special_tokens={role: token for role, token in given.items() if token in set(vocabulary)},
        )

    @classmethod
    def from_vocabulary(
        cls,
        vocabulary: Sequence[str],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        special_tokens: Mapping[str, str] | None = None,
    ) -> "Tokenizer":
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
        roles = {role: USUAL_TOKENS[role][0] for role in USUAL_TOKENS} | dict(special_tokens or {})
        missing = [roles[role] for role in ("unk", "cls", "sep") if roles[role] not in ids]
        if missing:
            raise ValueError(f"a vocabulary of {len(vocabulary)} tokens lacks {', '.join(missing)}, which BERT needs")
        roles = {role: token for role, token in roles.items() if token in ids}

        backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=roles["unk"], max_input_chars_per_word=100))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        backend.add_special_tokens(sorted(set(roles.values()), key=ids.__getitem__))
        backend.post_processor = bert_template(roles["cls"], ids[roles["cls"]], roles["sep"], ids[roles["sep"]])
        return cls(backend, roles)

    @cached_property
    def continuation(self) -> np.ndarray:
        """bool (vocab,): the token continues the word before it, as whole-word masking needs it.

        WordPiece marks continuations ("##ed"), BPE and Unigram mark beginnings ("Ġplay", "▁play"). In these a token
        that starts with a Chinese character begins a word, too. Special tokens never continue one.
        """
        if self.kind == "wordpiece":
            prefix = json.loads(self.json)["model"]["continuing_subword_prefix"]
            flags = [token.startswith(prefix) for token in self.vocabulary]
        else:
            # Byte-level BPE writes each byte as a letter; Chinese characters begin with the bytes E4 to E9.
            ranges = (
                (("ä", "é"),) if '"ByteLevel"' in self.json else (("\u3400", "\u9fff"), ("\U00020000", "\U0003ffff"))
            )
            flags = [
                not token.startswith(("▁", "Ġ")) and not any(low <= token[:1] <= high for low, high in ranges)
                for token in self.vocabulary
            ]
        flags = np.array(flags, bool)
        flags[self.special_ids] = False
        return flags

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the canonical tokenizer.json, in hex: equal for tokenizers that encode alike."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def backend(self, max_length: int | None = None) -> tokenizers.Tokenizer:
        """The library's tokenizer that truncates to max_length tokens (None: never). Not to be changed."""
        if max_length not in self._backends:
            description = json.loads(self.json)
            for token in description["added_tokens"]:
                # encode_special_tokens below makes text of what is "special"; the mask token is to stay a token.
                token["special"] &= token["id"] != self.mask_id
            backend = tokenizers.Tokenizer.from_str(json.dumps(description))
            backend.encode_special_tokens = True
            if max_length is not None:
                backend.enable_truncation(max_length, strategy="longest_first")
            self._backends[max_length] = backend
        return self._backends[max_length]

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
        if isinstance(texts, (str, bytes)) or isinstance(pairs, (str, bytes)):
            raise TypeError("encode takes a sequence of texts; put the single text into a list")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs: every row needs both")
        self.check_max_length(max_length, pair=pairs is not None)
        backend = self.backend(max_length)
        ids, segment_ids, lengths = [], [], [np.zeros(1, np.int64)]
        for start in range(0, len(texts), ROWS_AT_ONCE):
            rows = list(texts[start : start + ROWS_AT_ONCE])
            if pairs is not None:
                rows = list(zip(rows, pairs[start : start + ROWS_AT_ONCE], strict=True))
            try:
                encodings = backend.encode_batch_fast(rows)
            except (TypeError, UnicodeError) as error:
                raise _blame(rows, start, error) from error
            sizes = np.fromiter(map(len, encodings), np.int64, len(encodings))
            tokens = int(sizes.sum())
            ids.append(np.fromiter(chain.from_iterable(row.ids for row in encodings), np.int32, tokens))
            segment_ids.append(np.fromiter(chain.from_iterable(row.type_ids for row in encodings), np.int32, tokens))
            lengths.append(sizes)
        none = np.zeros(0, np.int32)
        return Encoded(
            np.concatenate([none, *ids]), np.concatenate([none, *segment_ids]), np.cumsum(np.concatenate(lengths))
        )

    def check_max_length(self, max_length: int | None, pair: bool) -> None:
        """Raises ValueError when rows of max_length tokens have no room for the special tokens."""
        special = self.backend().num_special_tokens_to_add(pair)
        if max_length is not None and max_length < max(special, 1):
            raise ValueError(f"max_length={max_length} has no room for the {special} special tokens of a row")

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text. Special tokens are left out, except the mask token."""
        return self.backend().decode([int(index) for index in ids], skip_special_tokens=True)

    def save(self, folder: str | PathLike) -> None:
        """Writes tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt.

        ``Tokenizer.from_folder`` and ``transformers.AutoTokenizer.from_pretrained`` read the folder. The latter makes
        special tokens of their literal texts; apart from that the ids are the same.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = json.loads(self.json)
        # The library's own writer, so that the file is laid out as others expect it.
        tokenizers.Tokenizer.from_str(self.json).save(str(folder / "tokenizer.json"))
        config = {f"{role}_token": token for role, token in self.special_tokens.items()}
        # The class that takes tokenizer.json as it is; it hands out segment ids only where they are asked for here.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        names = ["input_ids", "token_type_ids", "attention_mask"]
        config["model_input_names"] = names if self.encode([""], [""]).segment_ids.any() else names[::2]
        normalizer = description["normalizer"] or {}
        if normalizer.get("type") == "BertNormalizer":
            config["do_lower_case"] = normalizer["lowercase"]
            config["strip_accents"] = normalizer["strip_accents"]
            config["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")
        if self.kind == "wordpiece":
            (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in self.vocabulary).encode())

    def __reduce__(self):
        # The library forgets encode_special_tokens when pickled, so copies are made from the description.
        return _from_json, (self.json, self.special_tokens)

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, special_tokens={self.special_tokens})"


def bert_template(cls: str, cls_id: int, sep: str, sep_id: int) -> processors.TemplateProcessing:
    """[CLS] A [SEP] and [CLS] A [SEP] B [SEP], the second text with its [SEP] in segment 1."""
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, cls_id), (sep, sep_id)],
    )


def _from_json(description: str, special_tokens: Mapping[str, str]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(description), special_tokens)


def _read_text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not UTF-8; vocabularies are UTF-8 text") from error


def _read_json(file: Path) -> dict:
    try:
        return json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON ({error.msg})") from error


def _blame(rows: list, start: int, error: Exception) -> Exception:
    """The error that names the first row the library cannot take."""
    for number, row in enumerate(rows, start):
        for text in row if isinstance(row, tuple) else (row,):
            if not isinstance(text, str):
                return TypeError(f"row {number} is {type(text).__name__}, not a string: {text!r}")
            try:
                text.encode()
            except UnicodeEncodeError as broken:
                return ValueError(
                    f"row {number} holds a lone surrogate {text[broken.start]!r} at character {broken.start}, which is "
                    "no character; clean the text first"
                )
    return error
