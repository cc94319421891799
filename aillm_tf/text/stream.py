"""Text from ids that come one by one, in whole characters: for answers that are shown while they are written."""

from __future__ import annotations

from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["StreamDecoder"]


class StreamDecoder:
    """Collects ids until they make whole characters.

    What is given out, put together, is `Tokenizer.decode` of all ids, except where a family's decoder looks at the
    words around (the spaces before WordPiece's punctuation). Only the last few ids are decoded each time.

    Args:
        tokenizer: special tokens are left out, as `Tokenizer.decode` does.

    Example:
        >>> stream = StreamDecoder(Tokenizer.from_vocabulary(["[UNK]", "[CLS]", "[SEP]", "play", "##ed", "now"]))
        >>> [stream.add(index) for index in (1, 3, 4, 5, 2)], stream.finish()
        (['', 'play', 'ed', ' now', ''], '')
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._left_out = set(tokenizer.structural_ids)
        self._given: list[int] = []  # ids whose text was given out last, which say how the next ones are spaced
        self._waiting: list[int] = []

    def add(self, index: int) -> str:
        """Takes the next id; returns the text that is certain now, often "" within a character of several bytes."""
        if int(index) in self._left_out:
            return ""
        self._waiting.append(int(index))
        text = self._new_text()
        # U+FFFD stands for bytes that are no character, or none yet.
        return self._give(text) if text and not text.endswith("\ufffd") else ""

    def finish(self) -> str:
        """Returns what is left, where U+FFFD stands for bytes that never became a character, and starts anew."""
        text = self._give(self._new_text()) if self._waiting else ""
        self._given = []
        return text

    def _new_text(self) -> str:
        before = self.tokenizer.decode(self._given)
        text = self.tokenizer.decode(self._given + self._waiting)
        return text[len(before) :] if text.startswith(before) else self.tokenizer.decode(self._waiting)

    def _give(self, text: str) -> str:
        self._given, self._waiting = self._waiting, []
        return text
