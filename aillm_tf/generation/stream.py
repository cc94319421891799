"""Text while it is written: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from aillm_tf.text.stream import StreamDecoder
from aillm_tf.text.tokenizer import Tokenizer


def stream_text(
    ids: Iterable[int], tokenizer: Tokenizer, stop_ids: Sequence[int] = (), stop_strings: Sequence[str] = ()
) -> Iterator[str]:
    """Pieces of text from ids that come one by one.

    Args:
        ids: new tokens; a negative one is none.
        tokenizer: that turns them into text.
        stop_ids: tokens that end a text and are not part of it.
        stop_strings: the text ends before the first of these.

    Yields:
        Text that is certain: no half character, and no beginning of a stop string.

    Example:
        >>> tokenizer = Tokenizer.from_vocabulary(["[UNK]", "[CLS]", "[SEP]", "play", "##ed", "now"])
        >>> list(stream_text([3, 4, 5, 3], tokenizer, stop_strings=["now"]))
        ['play', 'ed', ' ']
    """
    decoder, held = StreamDecoder(tokenizer), ""
    for index in ids:
        if index < 0 or index in stop_ids:
            break
        held += decoder.add(index)
        end = first_stop(held, stop_strings)
        if end is not None:
            if held[:end]:
                yield held[:end]
            return
        sure = len(held) - _begun(held, stop_strings)
        if sure:
            yield held[:sure]
            held = held[sure:]
    held += decoder.finish()
    end = first_stop(held, stop_strings)
    held = held if end is None else held[:end]
    if held:
        yield held


def first_stop(text: str, stop_strings: Sequence[str]) -> int | None:
    """Where the first stop string of a text begins; None: it has none."""
    found = [place for place in map(text.find, stop_strings) if place >= 0]
    return min(found, default=None)


def tokens_until_stop(
    ids: np.ndarray, decode: Callable[[np.ndarray], str], stop_strings: Sequence[str], seen: int = 0
) -> int | None:
    """The fewest of the first tokens whose text has a stop string; None: all of them have none.

    Args:
        ids: (tokens,) int.
        decode: tokens to text.
        stop_strings: see `GenerationOptions`.
        seen: of so many tokens it is known that they have none.
    """
    if first_stop(decode(ids), stop_strings) is None:
        return None
    return next(n for n in range(seen, len(ids) + 1) if first_stop(decode(ids[:n]), stop_strings) is not None)


def _begun(text: str, stop_strings: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    longest = max(map(len, stop_strings), default=1) - 1
    ends = range(min(longest, len(text)), 0, -1)
    return next((n for n in ends if any(stop.startswith(text[-n:]) for stop in stop_strings)), 0)
