"""Texts that break offsets: what the tests of tasks that answer with places have in common."""

import random


def fuzzed(chance: random.Random, length: int) -> str:
    """Letters of all scripts, emoji, combining marks, right-to-left text, control characters, white space."""
    kinds = [
        "abc THE war",
        "éüßñÅŞİıﬁ",
        "e\u0301\u0323o\u0308\u0328",
        "电影好看酒店",
        "한국어\u1112\u1161\u11ab",
        "שלום مرحبا",
        "😀👩\u200d👧🇩🇪👍🏽",
    ]
    kinds += [
        "  \t\n\u00a0\u3000\u2028\u200b\ufeff",
        ".,;:!?()[]{}\"'“”—…¿",
        "\x00\x01\x02\x07\x7f\x85\ufffd",
        "नमस्ते",
        "𝕳𝖊𝖑𝖑𝖔①②½",
        "[MASK][SEP]##",
    ]
    text = ""
    while len(text) < length:
        kind = chance.choice(kinds)
        text += "".join(chance.choice(kind) for _ in range(chance.randint(1, 8))) + chance.choice(["", " ", " ", "  "])
    return text
