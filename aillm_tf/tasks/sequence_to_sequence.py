"""SequenceToSequence: read one text, write another (Sutskever et al. 2014, arXiv:1409.3215).

The decoder is given the target shifted by one token behind a start token, and learns to say the target (teacher
forcing). Which token that is differs between families (T5 and Marian: padding; BART: </s>; mBART: the language), so it
is read from the checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from keras import ops

from aillm_tf.data.parallel import Parallel, read_parallel
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.tasks.generative import GenerativeTask
from aillm_tf.tasks.text_scores import TextScores
from aillm_tf.tasks.token_loss import TokenLoss
from aillm_tf.text.tokenizer import Tokenizer

TARGET_FOLDER = "target"  # of the target's tokenizer, within that of a task, where it is another one

logger = logging.getLogger("aillm_tf")


class SequenceToSequence(TextScores, TokenLoss, GenerativeTask):
    """An encoder-decoder that learns to write the target of every source.

    Args:
        config: of an encoder-decoder; `decoder_vocab_size` where the target has a vocabulary of its own.
        tokenizer: of the source.
        target_tokenizer: of the target; None: the same. `from_pretrained` takes the checkpoint's.
        max_target_length: tokens a target may have, end token included; longer ones are cut. No text that is written
            gets longer, unless `generation` says so.
        start_id: the token that the decoder begins with; None: the checkpoint's (decoder_start_token_id), for a new
            model <s>, or padding where the target's tokenizer has none.
        prefix: put before every source ("summarize: " for T5).
        generation: see `GenerativeTask`.
        **options: of `TokenLoss` (label_smoothing, z_loss) and `Task`.

    Raises:
        ValueError: lengths or vocabularies that the model has no room for, or a tokenizer without an end token.

    Example:
        >>> model = SequenceToSequence.from_pretrained("opus-mt-en-de", max_target_length=64)  # doctest: +SKIP
    """

    backbone_class = EncoderDecoder
    huggingface_head = "seq2seq_lm"

    def __init__(
        self,
        config,
        tokenizer: Tokenizer,
        *,
        target_tokenizer: Tokenizer | None = None,
        max_target_length: int = 128,
        start_id: int | None = None,
        prefix: str = "",
        generation: GenerationOptions | Mapping[str, Any] | None = None,
        **options,
    ):
        target = target_tokenizer or tokenizer
        if config.position == "learned" and max_target_length > config.max_length:
            raise ValueError(
                f"max_target_length {max_target_length} is more than the model's {config.max_length} positions"
            )
        rows = config.decoder_vocab_size or config.vocab_size
        if target.vocab_size > rows:
            raise ValueError(
                f"the target's tokenizer has {target.vocab_size} tokens, the model writes {rows}: give "
                "decoder_vocab_size, or one tokenizer for both sides"
            )
        if target.eos_id is None or target.eos_id not in target.encode([""]).ids:
            raise ValueError("the target's tokenizer puts no end token after a text, so no text would ever end")
        self.target_tokenizer, self.max_target_length, self.prefix = target, max_target_length, prefix
        if not isinstance(generation, GenerationOptions):
            generation = dict(generation or {})
            if not {"max_length", "max_new_tokens"} & set(generation):
                generation["max_new_tokens"] = max_target_length
        super().__init__(config, tokenizer, generation=generation, **options)
        found = (start_id, self.generation.decoder_start_token_id, target.bos_id, target.pad_id)
        self.start_id = next((index for index in found if index is not None), None)
        self.generation = self.generation.replace(decoder_start_token_id=self.start_id)

    def options(self) -> dict:
        own = ("max_target_length", "start_id", "prefix")
        options = {**super().options(), **{name: getattr(self, name) for name in own}}
        options["generation"]["max_new_tokens"] = self.generation.max_new_tokens
        return options

    def build_heads(self) -> None:
        pass  # the backbone has the only one

    def logits(self, features: dict, seed=None):
        """(batch, target, vocabulary) float32: scores of the token that follows each of "target_ids"."""
        return self.backbone.logits(self.backbone(features, seed=seed))

    def scores_of(self, hidden):
        """(..., hidden) -> (..., vocabulary) float32."""
        return self.backbone.logits(hidden)

    def predictions(self, batch: dict, seed=None) -> tuple:
        weights = batch["target_weights"] * ops.expand_dims(batch["weight"], -1)
        return self.backbone(batch, seed=seed), batch["targets"], weights

    # Data -------------------------------------------------------------------------------------------------------

    def dataset(
        self,
        rows: str | Mapping[str, str] | Parallel,
        *,
        source: str = "source",
        target: str = "target",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        longer: Literal["cut", "drop"] = "cut",
        decode: int | None = 0,
        **batching,
    ) -> Dataset:
        """Pairs of texts as batches; a source with several targets is as many rows.

        Args:
            rows: see `aillm_tf.data.parallel.read_parallel`; or rows read already.
            source, target: names or numbers of the columns.
            on_bad: "raise" at a bad row, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.
            longer: "cut" what is longer than `max_length` or `max_target_length`, or "drop" the pair, which is then
                counted in the log.
            decode: of so many of the sources (None: of all) `evaluate` also writes the target and scores it.
            **batching: batch_size, tokens_per_batch (of both sides), shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad row; names the file and line.
        """
        if not isinstance(rows, Parallel):
            rows = read_parallel(rows, source=source, target=target, on_bad=on_bad, errors=encoding_errors)
        sources, targets = rows.pairs()
        limits = (self.max_length, self.max_target_length) if longer == "cut" else (None, None)
        read = self.tokenizer.encode([self.prefix + text for text in sources], max_length=limits[0])
        written = self.target_tokenizer.encode(targets, max_length=limits[1])
        sides = [(read.ids, read.offsets), (written.ids, written.offsets)]
        if longer == "drop":
            sides = self._fitting(sides)
        (ids, offsets), (labels, label_offsets) = sides
        given = np.roll(labels, 1)
        given[label_offsets[:-1]] = self.start_id
        columns = {
            "token_ids": Ragged(ids, offsets),
            "target_ids": Ragged(given, label_offsets),
            "targets": Ragged(labels, label_offsets),
        }
        data = self.batched(columns, **batching)
        data.texts = None if decode == 0 else rows.take(range(len(rows))[:decode])
        return data

    def _fitting(self, sides: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Flat ids and offsets of the pairs that have no more tokens than the model reads and writes."""
        counts = [np.diff(offsets) for _, offsets in sides]
        fits = (counts[0] <= self.max_length) & (counts[1] <= self.max_target_length)
        check_dropped(fits, self.max_length, self.max_target_length)
        return [
            (ids[np.repeat(fits, count)], np.concatenate([[0], np.cumsum(count[fits])]))
            for (ids, _), count in zip(sides, counts, strict=True)
        ]

    def batched(self, columns: dict, **options) -> Dataset:
        """See `Task.batched`; columns named "target..." have their own length."""
        return super().batched(columns, max_target_length=self.max_target_length, **options)

    # Files ------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """See `Task.save`; a tokenizer of the target alone is kept in a folder of its own."""
        own = Path(folder) / TARGET_FOLDER
        shutil.rmtree(own, ignore_errors=True)
        # Marian's files are those of both sides
        if self.target_tokenizer is not self.tokenizer and not self.tokenizer.shares_vocabulary:
            self.target_tokenizer.save(own)
        super().save(folder)

    @classmethod
    def checkpoint_options(cls, folder: Path, tokenizer: Tokenizer) -> dict:
        options = {}
        if (folder / TARGET_FOLDER).is_dir():
            options["target_tokenizer"] = Tokenizer.from_folder(folder / TARGET_FOLDER)
        elif tokenizer.shares_vocabulary or "tgt_lang" in tokenizer.settings:
            options["target_tokenizer"] = Tokenizer.from_folder(folder, side="target")
        if (folder / "task.json").exists():  # another task's, such as that of a pretraining
            saved = json.loads((folder / "task.json").read_text(encoding="utf-8"))["options"]
            options |= {name: saved[name] for name in ("start_id",) if name in saved}
        return options


def check_dropped(fits: Sequence[bool], source_length: int, target_length: int) -> None:
    """Says how many pairs do not fit and are dropped.

    Raises:
        ValueError: no pair is left.
    """
    if not any(fits):
        raise ValueError(f"no pair fits into {source_length} source and {target_length} target tokens: allow more")
    if not all(fits):
        logger.warning(
            "%d of %d pairs dropped: longer than %d source or %d target tokens",
            len(fits) - sum(fits),
            len(fits),
            source_length,
            target_length,
        )
