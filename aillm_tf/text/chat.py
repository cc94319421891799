"""Conversations to ids through a model's chat template.

Notable here:

* Templates are Jinja programs that come with a model; transformers runs them in its sandbox.
* What people write cannot pass for structure: "<|im_end|>" in a message is text, the one the template writes is the
  token.
* Training on answers alone needs to know which tokens are answers: from the template's ``{% generation %}`` blocks, or,
  where it has none, from what each answer adds to the conversation before it.
* A model that comes without a template gets a plain one: "user: ...</s>assistant: ...</s>".
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["Conversation", "Frame", "behind_special", "encode_chat", "frame", "with_template"]

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}:{% if message.role == 'assistant' %}"
    "{% generation %} {{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

# Characters that Unicode promises no text has: MARK breaks up special tokens in messages; the others delimit the names
# that special tokens have within the tokenizer.
MARK, RESERVED = "\ufdd2", "\ufdd0\ufdd1\ufdd2"
CONTENT = "\ufdd3"
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
    chosen = _Template(tokenizer, template, variables)
    blocks = bool(GENERATION.search(chosen.source))
    text, spans = chosen.render(messages, add_generation_prompt, tools, blocks)
    if not blocks:
        spans = _answers(messages, text, lambda turns, prompt: chosen.render(turns, prompt, tools))
    cuts = [0, *(cut for span in spans for cut in span), len(text)]
    parts = [chosen.named(text[start:end]) for start, end in pairwise(cuts)]
    encoding = chosen.encode("".join(parts))
    starts = np.array([start for start, _ in encoding.offsets], np.int64)
    # Parts are by turns of others and of the assistant.
    answers = np.searchsorted(np.cumsum([len(part) for part in parts]), starts, side="right") % 2 == 1
    return Conversation(np.array(encoding.ids, np.int32), answers)


class Frame(NamedTuple):
    """What a template puts around the message of a conversation that has only one, up to where the answer begins.

    Args:
        before: ids before the text that the message is part of.
        lead, tail: of that text, what stands before and after the message.
        tail_ids: of `tail` where it is a text of its own, behind a message that was cut.
        after: ids after the text.
    """

    before: list[int]
    lead: str
    tail: str
    tail_ids: list[int]
    after: list[int]


def frame(tokenizer: Tokenizer) -> Frame:
    """The `Frame` of a tokenizer's template: with it, a graph that runs no template asks as it does.

    Raises:
        ValueError: the template does not write the message once.
    """
    template = _Template(tokenizer, "default", {})
    text, _ = template.render([{"role": "user", "content": CONTENT}], True)
    if text.count(CONTENT) != 1:
        raise ValueError(f"the chat template writes a message {text.count(CONTENT)} times: only once can be exported")
    start, end = text.split(CONTENT)
    cut = max((found.end() for found in template.special.finditer(start)), default=0)
    stop = next((found.start() for found in template.special.finditer(end)), len(end))
    before, after = (template.encode(template.named(part)).ids for part in (start[:cut], end[stop:]))
    tail = behind_special(tokenizer).backend().encode(end[:stop], add_special_tokens=False).ids
    return Frame(before, start[cut:], end[:stop], tail, after)


def behind_special(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as it reads what stands behind a special token, where Llama 2's puts no space before it."""
    description = json.loads(tokenizer.json)
    words = description.get("pre_tokenizer") or {}
    if words.get("prepend_scheme") != "first":
        return tokenizer
    description["pre_tokenizer"] = {**words, "prepend_scheme": "never"}
    make, (_, rest) = tokenizer.__reduce__()
    return make(json.dumps(description), rest)


def with_template(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, or, where it has no chat template, a copy with a plain one."""
    if tokenizer.chat_template is not None:
        return tokenizer
    made = copy.copy(tokenizer)
    made.chat_template = PLAIN
    return made


class _Template:
    """One of a tokenizer's templates and the special tokens that it writes."""

    def __init__(self, tokenizer: Tokenizer, name: str, variables: Mapping[str, Any]):
        source = tokenizer.chat_template
        if source is None:
            raise ValueError(
                "this tokenizer has no chat template: neither chat_template.jinja nor chat_template in "
                "tokenizer_config.json stood beside it; models that were not trained on conversations have none"
            )
        templates = {"default": source} if isinstance(source, str) else source
        if name not in templates:
            raise ValueError(f"template={name!r}: this tokenizer has {', '.join(templates)}")
        self.source, self._backend = templates[name], tokenizer.backend()
        self._names = {tokenizer.vocabulary[index]: tokenizer.hidden_name(index) for index in tokenizer.structural_ids}
        longest_first = sorted(self._names, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._variables = {f"{role}_token": token for role, token in tokenizer.special_tokens.items()} | dict(variables)

    def render(self, messages, prompt: bool, tools=None, blocks: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and, with `blocks`, where the {% generation %} blocks are."""
        guarded = (_guarded(value, self.special) for value in (messages, tools))
        return _render(self.source, *guarded, prompt, blocks, self._variables)

    def named(self, text: str) -> str:
        """The text with the names that the tokenizer alone knows in place of the template's own special tokens."""
        return self.special.sub(lambda found: self._names[found[0]], text).replace(MARK, "")

    def encode(self, text: str):
        return self._backend.encode(text, add_special_tokens=False)


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
