"""Translation: a text of one language to another (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

from collections.abc import Sequence

from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.tasks.sequence_to_sequence import SequenceToSequence
from aillm_tf.text.tokenizer import Tokenizer


class Translation(SequenceToSequence):
    """An encoder-decoder that translates.

    Args:
        config, tokenizer: see `SequenceToSequence`.
        source_language, target_language: codes of a model of many languages ("en_XX", "de_DE" for mBART), which its
            tokenizer puts beside texts; None: those it has.
        **options: of `SequenceToSequence`.

    Example:
        >>> model = Translation.from_pretrained("opus-mt-en-de")  # doctest: +SKIP
        >>> model.answer(["A little girl climbs into a wooden playhouse."], num_beams=5)  # doctest: +SKIP
        [{'text': 'Ein kleines Mädchen klettert in ein Spielhaus aus Holz.', 'score': -0.21}]
    """

    def __init__(
        self,
        config,
        tokenizer: Tokenizer,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        target_tokenizer: Tokenizer | None = None,
        start_id: int | None = None,
        **options,
    ):
        if target_language is not None:
            target_tokenizer = (target_tokenizer or tokenizer).for_language(target_language)
            # mBART's decoder begins with the language that it is to write
            start_id = target_tokenizer.vocabulary.index(target_language) if start_id is None else start_id
        if source_language is not None:
            tokenizer = tokenizer.for_language(source_language)
        self.source_language, self.target_language = source_language, target_language
        super().__init__(config, tokenizer, target_tokenizer=target_tokenizer, start_id=start_id, **options)

    def options(self) -> dict:
        own = ("source_language", "target_language")
        return {**super().options(), **{name: getattr(self, name) for name in own}}

    def text_scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        from aillm_tf.metrics.translation import translation_scores

        return translation_scores(written, references).scores

    def text_tally(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> Tally:
        from aillm_tf.metrics.translation import translation_tally

        return translation_tally(written, references)
