"""Conversations to ids through a model's chat template.

Notable here:

* Templates are Jinja programs that come with a model; transformers runs them in its sandbox.
* What people write cannot pass for structure: "<|im_end|>" in a message is text, the one the template writes is the
  token.
* Training on answers alone needs to know which tokens are answers: from the template's ``{% generation %}`` blocks, or,
  where it has none, from what each answer adds to the conversation before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["Conversation", "encode_chat"]

# Characters that Unicode promises no text has: MARK breaks up special tokens in messages; the others delimit the names
# that special tokens have within the tokenizer.
MARK, RESERVED = "\ufdd2", "\ufdd0\ufdd1\ufdd2"
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Conversation(NamedTuple):
    """A conversation as the model reads it.

    Args:
        ids: int32 (tokens,).
        answers: bool (tokens,), the token is part of what the assistant said, with the token that ends it.
    """

    ids: np.ndarray
    answers: np.ndarray


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    template: str,
    variables: Mapping[str, Any],
) -> Conversation:
    """Does the work of `Tokenizer.chat`."""
    source = tokenizer.chat_template
    if source is None:
        raise ValueError(
            "this tokenizer has no chat template: neither chat_template.jinja nor chat_template in "
            "tokenizer_config.json stood beside it; models that were not trained on conversations have none"
        )
    templates = {"default": source} if isinstance(source, str) else source
    if template not in templates:
        raise ValueError(f"template={template!r}: this tokenizer has {', '.join(templates)}")
    source = templates[template]
    structure = {tokenizer.vocabulary[index]: tokenizer.hidden_name(index) for index in tokenizer.structural_ids}
    special = re.compile("|".join(map(re.escape, sorted(structure, key=len, reverse=True))) or r"(?!)")

    def render(turns: Sequence[Mapping[str, Any]], prompt: bool, blocks: bool = False) -> tuple[str, list]:
        return _render(source, _guarded(turns, special), _guarded(tools, special), prompt, blocks, names)

    names = {f"{role}_token": token for role, token in tokenizer.special_tokens.items()} | dict(variables)
    blocks = bool(GENERATION.search(source))
    text, spans = render(messages, add_generation_prompt, blocks)
    if not blocks:
        spans = _answers(messages, text, render)

    parts, edges, length = [], [], 0
    cuts = [0, *(cut for span in spans for cut in span), len(text)]
    for start, end in pairwise(cuts):
        # Template's own special tokens get the names only the tokenizer knows.
        part = special.sub(lambda found: structure[found[0]], text[start:end]).replace(MARK, "")
        parts.append(part)
        length += len(part)
        edges.append(length)
    encoding = tokenizer.backend().encode("".join(parts), add_special_tokens=False)
    starts = np.array([start for start, _ in encoding.offsets], np.int64)
    # Parts are by turns of others and of the assistant.
    answers = np.searchsorted(edges, starts, side="right") % 2 == 1
    return Conversation(np.array(encoding.ids, np.int32), answers)


def _render(
    source: str, messages: Any, tools: Any, prompt: bool, blocks: bool, variables: Mapping[str, Any]
) -> tuple[str, list[tuple[int, int]]]:
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, spans = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=source,
            return_assistant_tokens_mask=blocks,
            add_generation_prompt=prompt,
            **variables,
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template does not take these messages: {error}") from error
    return texts[0], [tuple(span) for span in spans[0]] if blocks else []


def _answers(messages: Sequence[Mapping[str, Any]], text: str, render) -> list[tuple[int, int]]:
    """Returns the places of the answers in the text: what each adds to the conversation before it."""
    spans = []
    for number, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before, after = render(messages[:number], True)[0], render(messages[: number + 1], False)[0]
        if not (after.startswith(before) and text.startswith(after)):
            # The template rewrites what was said before (drops thoughts, ...): no mask rather than a wrong one.
            return []
        spans.append((len(before), len(after.rstrip())))
    return spans


def _guarded(value: Any, special: re.Pattern) -> Any:
    """The value with a mark within every special token that stands in its strings."""
    if isinstance(value, str):
        value = value.translate(dict.fromkeys(map(ord, RESERVED)))
        return special.sub(lambda found: found[0][0] + MARK + found[0][1:], value)
    if isinstance(value, Mapping):
        return {key: _guarded(entry, special) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_guarded(entry, special) for entry in value]
    return value
