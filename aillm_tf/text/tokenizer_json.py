"""What tokenizer.json says, as the dict it is: roles of special tokens, word starts, language codes, other names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import tokenizers

__all__ = ["ROLES", "byte_level", "continuing", "find_roles", "language_around", "renamed", "with_language"]

ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
USUAL_TOKENS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("[BOS]", "<s>", "<bos>"),
    "eos": ("[EOS]", "</s>", "<eos>"),
}
LANGUAGE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")


def find_roles(
    backend: tokenizers.Tokenizer, ids: Mapping[str, int], added: Iterable[int], given: Mapping[str, str]
) -> dict[str, str]:
    """Returns role to token: what is given, and the usual names for the others."""
    for role, token in given.items():
        if token not in ids:
            raise ValueError(f"the {role} token {token!r} is not in the vocabulary of {len(ids)} tokens")
    roles = dict(given)
    around = backend.encode("").ids
    for role, names in USUAL_TOKENS.items():
        found = [name for name in names if name in ids]
        if role in ("bos", "eos"):
            found = [name for name in found if ids[name] in added]
        if role in ("cls", "sep"):
            # "<s>" and "</s>" have these roles only where they stand around every text.
            ends = (ids.get("<s>"), ids.get("</s>"))
            found = [name for name in found if name.startswith("[") or (around[:1] + around[-1:]) == list(ends)]
        if role not in roles and found:
            roles[role] = found[0]
    return {role: roles[role] for role in ROLES if role in roles}


def continuing(description: Mapping, vocabulary: Sequence[str]) -> list[bool]:
    """Returns for each token whether it goes on with a word, see `Tokenizer.continuation`."""
    model = description["model"]
    if model["type"] == "WordPiece":
        return [token.startswith(model["continuing_subword_prefix"]) for token in vocabulary]
    if byte_level(description):
        # Byte-level BPE writes each byte as a letter; Chinese characters begin with the bytes E4 to E9.
        starts, ranges = ("Ġ", "Ċ", "ĉ", "č"), (("ä", "é"),)
    else:
        starts = ("▁", "\n", "\t", "\r", "<0x0A>", "<0x09>")
        ranges = (("\u3400", "\u9fff"), ("\U00020000", "\U0003ffff"))
    return [
        not token.startswith(starts) and not any(low <= token[:1] <= high for low, high in ranges)
        for token in vocabulary
    ]


def byte_level(description: Mapping) -> bool:
    """Returns whether tokens are written with a letter for each byte."""
    return '"ByteLevel"' in json.dumps([description["pre_tokenizer"], description["decoder"]])


def writes_spaces(description: Mapping) -> bool:
    """Returns whether spaces are written "▁", as SentencePiece does."""
    steps = json.dumps([description["normalizer"], description["pre_tokenizer"]], ensure_ascii=False)
    return '"▁"' in steps


def language_around(description: Mapping) -> str | None:
    """Returns the language code that stands around texts, if one does."""
    around = (description["post_processor"] or {}).get("special_tokens", {})
    return next((token for token in around if LANGUAGE.fullmatch(token)), None)


def with_language(description: dict, code: str, vocabulary: Sequence[str]) -> dict:
    """Returns the description with another language code around texts, see `Tokenizer.for_language`."""
    present = language_around(description)
    if present is None:
        raise ValueError("this tokenizer puts no language code around texts; only mBART's does")
    if code not in vocabulary:
        known = [token for token in vocabulary if LANGUAGE.fullmatch(token)]
        raise ValueError(f"language {code!r}: the vocabulary has {', '.join(known)}")
    around = json.loads(json.dumps(description["post_processor"]).replace(f'"{present}"', f'"{code}"'))
    around["special_tokens"][code]["ids"] = [vocabulary.index(code)]
    return {**description, "post_processor": around}


def renamed(description: dict, names: Mapping[str, str]) -> dict:
    """The description with other texts for some tokens, so that no text becomes them; ids stay."""
    model = description["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {names.get(token, token): index for token, index in model["vocab"].items()}
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, "".join(pair)}]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    for token in description["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    return description
