"""Summarization: a long text to a short one."""

from __future__ import annotations

from collections.abc import Sequence

from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.tasks.sequence_to_sequence import SequenceToSequence


class Summarization(SequenceToSequence):
    """An encoder-decoder that summarizes, scored by ROUGE.

    Args:
        config, tokenizer: see `SequenceToSequence`.
        **options: of `SequenceToSequence`; T5 wants `prefix="summarize: "`.

    Example:
        >>> model = Summarization.from_pretrained("t5-small", prefix="summarize: ", max_length=512)  # doctest: +SKIP
        >>> model.answer([article], num_beams=4, max_new_tokens=60)  # doctest: +SKIP
        [{'text': 'A storm hit the coast on Monday.', 'score': -0.48}]

    Reference:
        Raffel et al. 2020, arXiv:1910.10683; Lewis et al. 2020, arXiv:1910.13461.
    """

    def text_scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        from aillm_tf.metrics.summaries import summary_scores

        return summary_scores(written, references)

    def text_tally(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> Tally:
        from aillm_tf.metrics.summaries import summary_tally

        return summary_tally(written, references)
