"""1,000 sets of questions with gold answers and predictions, random and adversarial; the same on every machine."""

from __future__ import annotations

import random

WORDS = """the The THE a A an An rollo Rollo ROLLO norman Normans Norse France 1066 10th 1,000 3.5 2,5 $5 50% 1990s
the-end The,end a.b an's a/the theatre another café cafe\u0301 naïve Straße STRASSE strasse ﬁn fin İzmir izmir 東京 罗洛
١٢٣ １２ Ⅷ ² ½ “quoted” ‘the’ «a» — – - … ... !? . , ; : ' " ` _ * ( ) [ ] 😀 👩\u200d👩\u200d👧 \u200bthe the\u200b
can't Can’t dogs' O'Neil e-mail U.S. U.S.A. A.M. c++ C# _the_ the_ a_b __""".split()
WORDS += ["\u00a0", "\u3000", "\t", "\n", "\u2028", "\x1c"]
EMPTY = ["", " ", ".", "the", "The.", "a an the", "\u3000", "!?", "—", "a, the", "An", "“a”"]


def text(chance: random.Random, longest: int = 6) -> str:
    return chance.choice(["", " "]).join(
        chance.choice(WORDS) + chance.choice(["", " ", " ", "  "]) for _ in range(chance.randint(1, longest))
    )


def changed(chance: random.Random, gold: str) -> str:
    """Like a gold answer: another case, a word more or less, other punctuation, or the same."""
    words = gold.split(" ")
    kind = chance.randrange(8)
    if kind == 0:
        return gold.upper() if chance.random() < 0.5 else gold.swapcase()
    if kind == 1:
        return chance.choice(["the ", "a ", "An ", "(", "“"]) + gold + chance.choice([".", ",", "!", "”", " the"])
    if kind == 2:
        words.insert(chance.randint(0, len(words)), chance.choice(WORDS))
    if kind == 3 and len(words) > 1:
        words.pop(chance.randrange(len(words)))
    if kind == 4:
        chance.shuffle(words)
    if kind == 5:
        words = words * 2
    return " ".join(words)


def prediction_sets(count: int = 1000, seed: int = 0) -> list[dict]:
    """Each {"golds": [[text, ...], ...], "answers": [text, ...], "no_answer": [probability, ...]}."""
    chance = random.Random(seed)
    sets = []
    for number in range(count):
        golds, answers, no_answer = [], [], []
        for _ in range(chance.randint(1, 9)):
            gold = [
                chance.choice(EMPTY) if chance.random() < 0.1 else text(chance) for _ in range(chance.randint(1, 4))
            ]
            # half of the sets have questions without an answer
            golds.append([] if number % 2 and chance.random() < 0.4 else gold)
            kind = chance.random()
            if kind < 0.15:
                answers.append(chance.choice(EMPTY))
            elif kind < 0.3:
                answers.append(text(chance))
            else:
                answers.append(changed(chance, chance.choice(gold)))
            # some probabilities are tied
            no_answer.append(round(chance.random(), chance.choice([1, 6])))
        sets.append({"golds": golds, "answers": answers, "no_answer": no_answer})
    return sets
