"""The language of a document from its script and its function words: no model, no download, a guess that is cheap.

Notable here: languages that share the Latin script are told apart by their most frequent small words; scripts that
one large language owns name it. A document with no script in the majority, or in Latin script with hardly a small word
that is known (tables, lists, code, a language not in the list), is "und", undetermined.
"""

from __future__ import annotations

import functools

import numpy as np

from aillm_tf.text.units import SCRIPTS, Units, split_units, tables

UNDETERMINED = "und"
BY_SCRIPT = {
    "Han": "zh", "Hangul": "ko", "Cyrillic": "ru", "Greek": "el", "Arabic": "ar", "Hebrew": "he", "Devanagari": "hi",
    "Bengali": "bn", "Tamil": "ta", "Thai": "th", "Georgian": "ka", "Armenian": "hy",
}  # fmt: skip
BY_WORDS = {
    "cs": "a v se na je že s z do o ve to i jako za by jsou který od po ale pro byl jeho jsem být má při také podle",
    "da": "og i at det er en til af på som med for ikke den der var han de et har jeg kan vi havde blev om fra eller",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er",
    "en": "the of and a to in is that for it with as was on be at by this are from have or which you not but his they",
    "es": "de la que el en y los se del las un por con no una su para es al lo como más pero sus le ya o este fue ha",
    "fi": "ja on ei se että oli hän mutta myös kun niin ovat joka mukaan tai kuin sekä ole jos vain nyt jo olla ollut",
    "fr": "de la le et les des en un du une que est pour qui dans par plus pas au sur ne se ce il sont avec aux sa ou",
    "hu": "a az és hogy nem is egy meg volt ez de csak azt van már még mint vagy ki el ha amely fel lehet után kell",
    "id": "yang dan di dengan untuk dari dalam ini pada tidak akan itu oleh adalah juga ke sebagai telah ada bisa",
    "it": "di e il la che in un a è per una del le non con si da i dei nel al alla sono gli della come più ha anche ma",
    "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als bij maar door naar hij uit wordt ze",
    "no": "og i det er på en til som av for at med den har ikke de et om var fra jeg han men vi seg kan sin skal ble",
    "pl": "w i na z się do nie jest że to o jak po a od za co dla przez są był ale tym tego ich być przy oraz może",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu",
    "ro": "de și în a la cu pe că nu este o din un pentru care mai sunt se ce au sau fost al ca fi prin după lui cel",
    "sv": "och i att det som en på är av för med den till inte har de ett om var jag han men vi sig från kan ska nu",
    "tr": "ve bir bu da de için ile çok olarak daha ne gibi en kadar olan ama sonra o her mi ki ise değil var yok göre",
    "vi": "và của là có trong được cho không các với một người này những để đã khi từ như cũng đến về ra năm vào",
}
LANGUAGES = sorted({*BY_WORDS, *BY_SCRIPT.values(), "ja"})
_LEAST = 0.08  # share of the words that must be small words of the language


def languages(units: Units) -> np.ndarray:
    """The language of each document.

    Args:
        units: the words of the documents.

    Returns:
        (documents,) array of ISO 639-1 codes, or "und". Cyrillic is called "ru", Arabic script "ar" and Devanagari
        "hi", whatever language writes it.

    Example:
        >>> languages(split_units(["It was the best of times.", "今天天气很好。", "Es war die beste Zeit."])).tolist()
        ['en', 'zh', 'de']
    """
    documents = len(units.starts) - 1
    script = tables().script[units.codes]
    written = np.flatnonzero(script)
    document = np.searchsorted(units.starts, written, "right") - 1
    names = [None, *SCRIPTS]
    counts = np.bincount(document * len(names) + script[written], minlength=documents * len(names))
    counts = counts.reshape(documents, len(names))
    letters = counts.sum(1)
    main = counts.argmax(1)
    answers = np.array([UNDETERMINED, *(BY_SCRIPT.get(name, UNDETERMINED) for name in SCRIPTS)], object)[main]
    answers[2 * counts.max(1) <= letters] = UNDETERMINED
    kana = counts[:, names.index("Kana")]
    japanese = kana + counts[:, names.index("Han")]
    answers[(2 * japanese > letters) & (10 * kana > japanese)] = "ja"
    latin = (main == names.index("Latin")) & (2 * counts.max(1) > letters)
    answers[latin] = _by_small_words(units)[latin]
    return answers


def _by_small_words(units: Units) -> np.ndarray:
    hashes, owners = _small_words()
    place = np.minimum(np.searchsorted(hashes, units.hashes), len(hashes) - 1)
    known = np.flatnonzero(hashes[place] == units.hashes)
    hits = np.zeros((len(units.starts) - 1, owners.shape[1]))
    np.add.at(hits, units.document[known], owners[place[known]])
    best = hits.argmax(1)
    enough = hits.max(1) >= np.maximum(_LEAST * units.counts, 1)
    return np.where(enough, np.array(list(BY_WORDS), object)[best], UNDETERMINED)


@functools.cache
def _small_words() -> tuple[np.ndarray, np.ndarray]:
    """(words,) sorted hashes, and (words, languages) what a word says for each language: less, the more share it."""
    lists = [words.split() for words in BY_WORDS.values()]
    words = sorted({word for words in lists for word in words})
    hashes = split_units([" ".join(words)]).hashes
    owners = np.array([[word in known for known in lists] for word in words], float)
    order = np.argsort(hashes)
    return hashes[order], owners[order] / np.sqrt(owners[order].sum(1, keepdims=True))
