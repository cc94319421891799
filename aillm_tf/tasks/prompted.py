"""PromptedSummarization: a decoder that reads a text and a prompt and goes on with the summary (Radford et al. 2019).

A row is source, prompt and target; only the target is learned. A source that is too long is cut, the prompt never.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from aillm_tf.data.parallel import Parallel, read_parallel
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.rows import around
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.tasks.causal_lm import CausalLM
from aillm_tf.tasks.generative_graph import open_rows
from aillm_tf.tasks.sequence_to_sequence import check_dropped
from aillm_tf.tasks.text_scores import TextScores


class PromptedSummarization(TextScores, CausalLM):
    """A decoder-only summarizer, scored by ROUGE.

    Args:
        config, tokenizer: of a decoder; the tokenizer needs an end token.
        prompt: what stands between source and summary.
        max_length: tokens of source, prompt and summary together; None: what the model was made for, at most 1024.
        max_target_length: tokens of a summary, end token included.
        **options: of `CausalLM`.

    Raises:
        ValueError: no end token, or no room for a source.

    Example:
        >>> model = PromptedSummarization.from_pretrained("gpt2", max_length=512)  # doctest: +SKIP
        >>> model.answer([article], num_beams=4)  # doctest: +SKIP
        [{'text': 'A storm hit the coast on Monday.', 'score': -0.48}]

    Reference:
        Radford et al. 2019, section 3.6, Language Models are Unsupervised Multitask Learners ("TL;DR:").
    """

    def __init__(
        self,
        config,
        tokenizer,
        *,
        prompt: str = "\nTL;DR:",
        max_target_length: int = 128,
        generation: GenerationOptions | Mapping | None = None,
        **options,
    ):
        if tokenizer.eos_id is None:
            raise ValueError("the tokenizer has no end token, so no summary would ever end")
        self.prompt, self.max_target_length = prompt, max_target_length
        if not isinstance(generation, GenerationOptions):
            generation = {"max_new_tokens": max_target_length, **(generation or {})}
        super().__init__(config, tokenizer, generation=generation, **options)
        before, after = around(tokenizer)
        self.before, self.after = len(before), len(after)
        self.prompt_ids = open_rows(tokenizer, [prompt])[0][self.before :].tolist()
        if self.source_length <= self.before:
            raise ValueError(
                f"max_length {self.max_length} leaves no room for a source beside {len(self.prompt_ids)} tokens of the "
                f"prompt and {max_target_length} of the summary"
            )

    def options(self) -> dict:
        options = {**super().options(), "prompt": self.prompt, "max_target_length": self.max_target_length}
        options["generation"]["max_new_tokens"] = self.generation.max_new_tokens
        return options

    @property
    def source_length(self) -> int:
        """Tokens that a source may have."""
        return self.max_length - len(self.prompt_ids) - self.max_target_length

    def text_scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        from aillm_tf.metrics.summaries import summary_scores

        return summary_scores(written, references)

    def text_tally(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> Tally:
        from aillm_tf.metrics.summaries import summary_tally

        return summary_tally(written, references)

    # What it goes on from -------------------------------------------------------------------------------------

    @property
    def read_length(self) -> int:
        return self.source_length + self.after

    def prompts(self, features: dict, options: GenerationOptions) -> tuple[tf.Tensor, tf.Tensor, dict | None]:
        ids, lengths, source = super().prompts(features, options)
        prompt, count = tf.constant(self.prompt_ids, tf.int32), len(self.prompt_ids)
        places = tf.range(tf.shape(ids)[1] + count)[None] - lengths[:, None]  # 0 at the first token of the prompt
        ids = tf.pad(ids, [[0, 0], [0, count]])
        inside = (places >= 0) & (places < count)
        return tf.where(inside, tf.gather(prompt, tf.clip_by_value(places, 0, count - 1)), ids), lengths + count, source

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
        """Sources with their summaries as batches; see `aillm_tf.tasks.sequence_to_sequence`."""
        if not isinstance(rows, Parallel):
            rows = read_parallel(rows, source=source, target=target, on_bad=on_bad, errors=encoding_errors)
        sources, targets = rows.pairs()
        room = self.before + self.max_target_length - 1 + self.after
        lengths = (self.read_length, room) if longer == "cut" else (None, None)
        read, written = (open_rows(self.tokenizer, *side) for side in zip((sources, targets), lengths, strict=True))
        if longer == "drop":
            read, written = self._fitting(read, written)
        ends = [np.append(ids[self.before :], self.tokenizer.eos_id) for ids in written]
        starts = [np.concatenate([ids, self.prompt_ids]) for ids in read]
        # the weight of a place is that of the token after it
        weights = [
            np.repeat([0.0, 1.0, 0.0], [len(start) - 1, len(end), 1]) for start, end in zip(starts, ends, strict=True)
        ]
        offsets = np.cumsum([0, *map(len, weights)])
        ids = np.concatenate([part for pair in zip(starts, ends, strict=True) for part in pair])
        columns = {
            "token_ids": Ragged(ids.astype("int32"), offsets),
            "target_weights": Ragged(np.concatenate(weights).astype("float32"), offsets),
        }
        data = self.batched(columns, **batching)
        data.texts = None if decode == 0 else rows.take(range(len(rows))[:decode])
        return data

    def _fitting(self, read: list[np.ndarray], written: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Ids, without what the tokenizer puts after a text, of the pairs of which nothing would be cut."""
        room = self.before + self.max_target_length - 1
        fits = [
            len(ids) <= self.source_length and len(target) <= room for ids, target in zip(read, written, strict=True)
        ]
        check_dropped(fits, self.source_length, self.max_target_length)
        return tuple([ids for ids, fit in zip(side, fits, strict=True) if fit] for side in (read, written))
