"""CausalLM: predict the next token (Radford et al. 2019; the recurrent form: Mikolov et al. 2010).

Notable here:
- Loss over all tokens of a row is computed in chunks of the vocabulary's scores, never all at once.
- Rows are whole documents, blocks of one long stream, or several documents packed into one row, each alone: all give
  the same loss a token.
- Evaluation counts bytes of text, so that models with other tokenizers compare in bits per byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.next_tokens import documents, joined, packed, random_blocks, random_prefix, read_texts, windows
from aillm_tf.data.pipeline import Dataset
from aillm_tf.data.shards import is_prepared, open_shards
from aillm_tf.layers.vocabulary_loss import token_losses
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.models.decoder import new_decoder
from aillm_tf.tasks.generative import GenerativeTask
from aillm_tf.tasks.token_loss import TokenLoss, token_scores, token_tally


class CausalLM(TokenLoss, GenerativeTask):
    """A language model that reads from left to right.

    Args:
        config: of a decoder, or with `cell="lstm"` of a recurrent one.
        tokenizer: strings to ids.
        max_length: tokens of a row, and so the context in training; None: what the model was made for, at most 1024.
        prefix_lm: UniLM's prefix language model (Dong et al. 2019, arXiv:1905.03197): a random part of every row from
            its start is seen in both directions, the rest is predicted from left to right.
        **options: of `TokenLoss` (label_smoothing, z_loss) and `GenerativeTask`.

    Raises:
        ValueError: a `prefix_lm` with LSTM layers, or the config of an encoder-decoder.

    Example:
        >>> model = CausalLM.from_pretrained("hf:openai-community/gpt2")  # doctest: +SKIP
        >>> model.evaluate(model.dataset("test.txt", layout="stream", stride=512))["perplexity"]  # doctest: +SKIP
    """

    backbone_class = staticmethod(new_decoder)
    huggingface_head = "causal_lm"

    def __init__(
        self,
        config,
        tokenizer,
        *,
        max_length: int | None = None,
        prefix_lm: bool = False,
        **options,
    ):
        if config.decoder_layers:
            raise ValueError(
                f"{type(self).__name__} is of a decoder alone; an encoder-decoder reads one text and writes another: "
                "take SequenceToSequence, Translation, Summarization or DialogueResponses"
            )
        if prefix_lm and config.cell == "lstm":
            raise ValueError("an LSTM reads from left to right only: prefix_lm needs attention")
        if max_length is None:
            max_length = min(config.max_length, 1024)
        self.prefix_lm = prefix_lm
        super().__init__(config.replace(causal=True), tokenizer.padded(), max_length=max_length, **options)

    def options(self) -> dict:
        return {**super().options(), "prefix_lm": self.prefix_lm}

    def build_heads(self) -> None:
        pass  # the backbone has the only one

    # The loss ---------------------------------------------------------------------------------------------------

    def hidden(self, batch: dict, seed=None):
        """(batch, length, hidden) of the features of a batch that a decoder looks at."""
        # padding stands at the end of a row, where no token looks: "valid" would only cost a mask
        looked_at = ("token_ids", "positions", "packed_ids", "prefix")
        return self.backbone({name: batch[name] for name in looked_at if name in batch}, seed=seed)

    def logits(self, features: dict, seed=None):
        """(batch, length, vocabulary) float32, scores of the token that follows each."""
        return self.backbone.logits(self.hidden(features, seed))

    def targets(self, batch: dict):
        """The token after each and the weight of its loss, (batch, length) int32 and float32.

        A batch says them ("targets", "target_weights"), or they are the next token of the row, where that is of the
        same document.
        """
        ids, row = batch["token_ids"], ops.expand_dims(batch["weight"], -1)
        if "targets" in batch:
            weights = batch["target_weights"] if "target_weights" in batch else ops.cast(batch["valid"], "float32")
            return batch["targets"], weights * row
        document = batch["packed_ids"] if "packed_ids" in batch else batch["valid"]
        same = ops.logical_and(document[:, 1:] == document[:, :-1], document[:, 1:] > 0)
        weights = ops.pad(ops.cast(same, "float32"), ((0, 0), (0, 1)))
        if "target_weights" in batch:
            weights = weights * batch["target_weights"]
        return ops.roll(ids, -1, axis=1), weights * row

    def scores_of(self, hidden):
        """(..., hidden) -> (..., vocabulary) float32."""
        return self.backbone.logits(hidden)

    def predictions(self, batch: dict, seed=None) -> tuple:
        """Hidden states, targets and their weights, each (batch, length, ...)."""
        return self.hidden(batch, seed), *self.targets(batch)

    def evaluation(self, batch: dict):
        hidden, targets, weights = self.predictions(batch)
        losses, hits = token_losses(hidden, self.scores_of, targets)
        rows = {"loss": losses * weights, "hits": hits * weights, "weight": weights}
        rows = {name: ops.sum(values, axis=-1) for name, values in rows.items()}
        if "bytes" in batch:
            rows["bytes"] = batch["bytes"] * batch["weight"]
        sums = {name: ops.sum(values) for name, values in rows.items()}
        each = ops.where(weights > 0, -losses, float("nan"))
        room = ((0, 0), (0, self.max_length - ops.shape(each)[1]))
        return sums, {**rows, "log_probabilities": ops.pad(each, room, constant_values=float("nan"))}

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        scores = token_scores(sums)
        if sums.get("bytes"):
            scores["bits_per_byte"] = sums["loss"] / math.log(2.0) / sums["bytes"]
        return scores

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        of = getattr(x, "text_of", np.arange(len(rows["loss"])))  # windows of one text are one example
        named = {name: rows[name] for name in ("loss", "hits", "weight", "bytes") if name in rows}
        found = {name: np.bincount(of, values) for name, values in named.items()}
        # a text has as many bytes for any tokenizer, which its windows share
        return [token_tally(found, [round(size) for size in found["bytes"]] if "bytes" in found else None)]

    def prompts(self, features: dict, options):
        if self.prefix_lm:
            raise NotImplementedError(
                "a prefix language model does not write text yet: prompts are read from left to right only"
            )
        return super().prompts(features, options)

    # Data -------------------------------------------------------------------------------------------------------

    def dataset(
        self,
        rows: str | Iterable[str],
        *,
        layout: Literal["documents", "stream", "packed"] = "documents",
        stride: int | None = None,
        text: str = "text",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Texts as batches of rows; every token but the first of a document is a target exactly once.

        Args:
            rows: a source with a text column (see `aillm_tf.data.sources`), the texts themselves, or a folder that
                `aillm prepare` wrote, whose rows are packed already; where it cut a document, the first token of a
                piece is no target.
            layout: "documents": a text is a row, or several where it is longer than `max_length`; "stream": all texts,
                one after the other, cut into rows of `max_length`, with `shuffle` elsewhere in every epoch (of a txt
                file, the whole file is one text); "packed": several texts in a row, none of which sees another.
            stride: for evaluation: targets of every row but the first of its text; what stands before them in the row
                is context. Small strides give every token more context and cost more. None: rows do not overlap.
            text: name or number of the column.
            on_bad: "raise" at a bad row or shard, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Returns:
            A `Dataset`; `evaluate` gives loss, perplexity, accuracy and bits per byte, and rows of
            "log_probabilities" (rows, max_length) of the targets, NaN where there is none.

        Raises:
            ValueError: a bad row (names the file and line), a layout that goes not with the task, too little text.
        """
        if layout not in ("documents", "stream", "packed"):
            raise ValueError(f'layout is "documents", "stream" or "packed", not {layout!r}')
        if self.prefix_lm and layout == "packed":
            raise ValueError('a prefix begins at the start of a row: layout="packed" goes not with prefix_lm')
        if is_prepared(rows):
            if self.prefix_lm or stride is not None:
                raise ValueError(f"{rows} holds packed rows: prefix_lm and stride need texts")
            batching.pop("fixed_length", None)  # its rows have one length
            keep = ("token_ids", "packed_ids", "positions", "bytes")
            options = {"tokenizer": self.tokenizer, "max_length": self.max_length, "keep": keep, "on_bad": on_bad}
            return open_shards(rows, **options, **batching)
        texts = read_texts(rows, whole=layout == "stream", text=text, on_bad=on_bad, encoding_errors=encoding_errors)
        ids, offsets, begun = documents(self.tokenizer, texts)
        sizes = np.array([len(text.encode()) for text in texts], "float32")
        if layout == "stream":
            ids, sizes = joined(ids, offsets), sizes.sum(keepdims=True)
            offsets = np.array([0, len(ids)])
        if layout != "documents" and batching.get("fixed_length") is None:
            batching["fixed_length"] = True
        of, noises = None, [random_prefix] if self.prefix_lm else []
        if layout == "stream" and batching.get("shuffle"):
            columns, noise = random_blocks(ids, self.max_length)
            noises.insert(0, noise)
        else:
            columns, of = windows(ids, offsets, self.max_length, stride)
            if begun:  # else the first token of a text is no target, and which bytes are left is not known
                columns["bytes"] = (sizes / np.maximum(np.bincount(of, minlength=len(sizes)), 1))[of].astype("float32")
            if layout == "packed":
                columns = packed(columns, self.max_length)
        if noises:
            batching |= {"noise": _one_after_the_other(noises), "noise_name": repr((layout, self.prefix_lm))}
        data = self.batched(columns, **batching)
        if layout == "documents":
            data.text_of = of
        return data


def _one_after_the_other(noises: list):
    """Several `noise` functions of a `Dataset` as one."""

    def noise(example: dict, seed, length) -> dict:
        for number, each in enumerate(noises):
            example = each(example, tf.random.experimental.stateless_fold_in(seed, number), length)
        return example

    return noise
