"""Vocabulary files of each family to a ``tokenizers`` backend: WordPiece, byte-level BPE and SentencePiece.

Notable here:

* A family is a row in a table: the names of its special tokens and what it puts around texts. Code is shared.
* SentencePiece models keep their own normalisation table (the charsmap), as the model was trained with it. Control
  pieces, which no text can become in SentencePiece, are special tokens.
* Merges of a SentencePiece BPE are not in its file: they follow from the order of the pieces.

Reference:
    Sennrich et al., 2016, https://arxiv.org/abs/1508.07909 (BPE); Kudo, 2018, https://arxiv.org/abs/1804.10959
    (Unigram); Kudo and Richardson, 2018, https://arxiv.org/abs/1808.06226 (SentencePiece)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from aillm_tf.text.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, SentencePieceModel

__all__ = ["FAMILIES", "Family", "byte_level", "marian", "sentencepiece", "template", "wordpiece"]


@dataclasses.dataclass(frozen=True)
class Family:
    """What a family of models agrees on beside its vocabulary.

    Args:
        roles: role to token.
        single, pair: what stands around one text and two. "{eos}" is the token of that role, ":1" a segment.
        begins: the first tokens, in place of the first three pieces of a SentencePiece file; () keeps the file's.
        ends: tokens after the last piece; T5's are as many as its settings say.
        pattern: how byte-level BPE cuts text; None is GPT-2's way.
    """

    roles: Mapping[str, str]
    single: str = "$A:0"
    pair: str = "$A:0 $B:1"
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    pattern: str | None = None


# fmt: off
MBART_LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)
MBART50_LANGUAGES = (
    *MBART_LANGUAGES,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
)
# fmt: on
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ALBERT = {"pad": "<pad>", "unk": "<unk>", "bos": "[CLS]", "eos": "[SEP]", "cls": "[CLS]", "sep": "[SEP]"}
_FAIRSEQ = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_FAIRSEQ_BEGINS = ("<s>", "<pad>", "</s>", "<unk>")
_CLS_PAIR = {"single": "{cls}:0 $A:0 {sep}:0", "pair": "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"}
_FAIRSEQ_PAIR = {"single": "{bos} $A {eos}", "pair": "{bos} $A {eos} {eos} $B {eos}"}

# By the model_type of config.json, or the tokenizer_class of tokenizer_config.json without "Tokenizer", lower-cased.
FAMILIES = {
    "bert": Family(_BERT, **_CLS_PAIR),
    "gpt2": Family({"unk": "<|endoftext|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"}),
    "roberta": Family(_FAIRSEQ, **_FAIRSEQ_PAIR),
    "qwen2": Family(
        {"unk": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"},
        pattern=QWEN_PATTERN,
    ),
    "t5": Family(
        {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
        single="$A {eos}",
        pair="$A {eos} $B {eos}",
    ),
    "albert": Family({**_ALBERT, "mask": "[MASK]"}, **_CLS_PAIR),
    "xlm-roberta": Family(_FAIRSEQ, **_FAIRSEQ_PAIR, begins=_FAIRSEQ_BEGINS, ends=("<mask>",)),
    "mbart": Family(
        _FAIRSEQ,
        single="$A {eos} en_XX",
        pair="$A $B {eos} en_XX",
        begins=_FAIRSEQ_BEGINS,
        ends=(*MBART_LANGUAGES, "<mask>"),
    ),
    "mbart50": Family(
        {role: token for role, token in _FAIRSEQ.items() if role != "bos"},
        single="en_XX $A {eos}",
        pair="en_XX $A $B {eos}",
        begins=_FAIRSEQ_BEGINS,
        ends=(*MBART50_LANGUAGES, "<mask>"),
    ),
    "llama": Family({"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, "{bos}:0 $A:0", "{bos}:0 $A:0 {bos}:1 $B:1"),
    "gemma": Family(
        {"pad": "<pad>", "unk": "<unk>", "bos": "<bos>", "eos": "<eos>"},
        single="{bos}:0 $A:0",
        pair="{bos}:0 $A:0 {bos}:1 $B:1",
    ),
    "marian": Family({"pad": "<pad>", "unk": "<unk>", "eos": "</s>"}, single="$A {eos}", pair="$A $B {eos}"),
}
for _alias, _name in {
    **dict.fromkeys(["distilbert", "electra"], "bert"),
    **dict.fromkeys(["gpt_neo", "opt"], "gpt2"),
    **dict.fromkeys(["bart", "longformer", "led"], "roberta"),
    **dict.fromkeys(["qwen3", "qwen2_moe", "qwen3_moe"], "qwen2"),
    **dict.fromkeys(["mt5", "umt5"], "t5"),
    **dict.fromkeys(["xlm-roberta-xl", "xlmroberta"], "xlm-roberta"),
    **dict.fromkeys(["mistral", "mixtral"], "llama"),
    **dict.fromkeys(["gemma2", "gemma3", "gemma3_text"], "gemma"),
}.items():
    FAMILIES[_alias] = FAMILIES[_name]

# Turns of a chat, which Gemma's file lists among the pieces of ordinary text.
TURNS = ("<start_of_turn>", "<end_of_turn>")
# Put before a piece that only the other side of a translation may use. Unicode promises that no text has these
# characters, so that no text becomes the piece.
OTHER_SIDE = "\uffff\ufffe\uffff"


def template(single: str, pair: str, roles: Mapping[str, str], ids: Mapping[str, int]) -> processors.TemplateProcessing:
    """What stands around texts, e.g. "{cls} $A {sep}".

    Args:
        single, pair: for one text and for two; "{cls}" is the token of the role.
        roles: role to token.
        ids: token to id.
    """
    single, pair = single.format(**roles), pair.format(**roles)
    parts = {part.rpartition(":")[0] or part for part in f"{single} {pair}".split()}
    tokens = sorted((token, ids[token]) for token in parts if not token.startswith("$"))
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


def wordpiece(
    ids: Mapping[str, int], roles: Mapping[str, str], lowercase: bool, strip_accents: bool | None, split_chinese: bool
) -> tokenizers.Tokenizer:
    """BERT's WordPiece: "##" starts a token that continues a word."""
    backend = tokenizers.Tokenizer(models.WordPiece(dict(ids), unk_token=roles["unk"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(sorted(set(roles.values()), key=ids.__getitem__))
    backend.post_processor = template(**_CLS_PAIR, roles=roles, ids=ids)
    return backend


def byte_level(
    ids: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    family: Family,
    roles: Mapping[str, str],
    prefix_space: bool,
) -> tokenizers.Tokenizer:
    """BPE over bytes (GPT-2, RoBERTa, BART, Qwen2)."""
    backend = tokenizers.Tokenizer(
        models.BPE(dict(ids), list(merges), continuing_subword_prefix="", end_of_word_suffix="")
    )
    split = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=family.pattern is None)
    if family.pattern is not None:
        backend.normalizer = normalizers.NFC()
        split = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(family.pattern), "isolated"), split])
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    add_special(backend, roles, roles.values())
    if "cls" in roles:
        pairs = [(roles[role], backend.token_to_id(roles[role])) for role in ("sep", "cls")]
        backend.post_processor = processors.RobertaProcessing(*pairs, trim_offsets=True, add_prefix_space=prefix_space)
    else:
        backend.post_processor = template(family.single, family.pair, roles, ids)
    return backend


def sentencepiece(
    model: SentencePieceModel, family: Family, roles: Mapping[str, str], settings: Mapping[str, object]
) -> tokenizers.Tokenizer:
    """SentencePiece, Unigram (T5, ALBERT, XLM-R, mBART) or BPE (Llama 2, Gemma).

    Args:
        settings: of tokenizer_config.json: do_lower_case, keep_accents (ALBERT), add_prefix_space, legacy (Llama),
            extra_ids (T5).

    Raises:
        KeyError: a token that the family puts around texts is in no piece.
    """
    pieces = numbered(model, family, settings)
    ids = {text: index for index, (text, _, _) in enumerate(pieces)}
    unk = next((text for text, _, kind in pieces if kind == UNKNOWN), None)

    albert = family is FAMILIES["albert"]
    prefix = bool(settings.get("add_prefix_space", model.dummy_prefix))
    if model.kind == "unigram":
        scored = [(text, score) for text, score, _ in pieces]
        backend = tokenizers.Tokenizer(
            models.Unigram(scored, unk_id=None if unk is None else ids[unk], byte_fallback=model.byte_fallback)
        )
        scheme = {"replacement": "▁", "prepend_scheme": "always" if prefix else "never"}
        cleaning = _albert_cleaning(settings) if albert else []
        if model.charsmap:
            cleaning.append(normalizers.Precompiled(model.charsmap))
        if cleaning:
            backend.normalizer = normalizers.Sequence(cleaning) if len(cleaning) > 1 else cleaning[0]
        backend.pre_tokenizer = pre_tokenizers.Metaspace(**scheme)
        if model.single_spaces:
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), backend.pre_tokenizer])
        backend.decoder = decoders.Metaspace(**scheme)
        if model.byte_fallback:
            backend.decoder = decoders.Sequence([decoders.ByteFallback(), backend.decoder])
    else:
        merges = _merges(pieces, ids)
        backend = tokenizers.Tokenizer(
            models.BPE(ids, merges, unk_token=unk, fuse_unk=True, byte_fallback=model.byte_fallback)
        )
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if model.charsmap:
            backend.normalizer = normalizers.Precompiled(model.charsmap)
        if prefix:
            # What follows a special token is the middle of a text; models from before that was noticed ("legacy") put
            # a space there, too.
            scheme = "always" if settings.get("legacy") else "first"
            backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
            steps.append(decoders.Strip(content=" ", left=1))
        else:
            spaces = normalizers.Replace(" ", "▁")
            backend.normalizer = normalizers.Sequence([backend.normalizer, spaces]) if model.charsmap else spaces
        backend.decoder = decoders.Sequence(steps)

    control = [text for text, _, kind in pieces if kind in (CONTROL, UNKNOWN) or text in TURNS]
    add_special(backend, roles, control)
    backend.add_tokens(
        [AddedToken(text, normalized=False) for text, _, kind in pieces if kind == USER_DEFINED and text not in control]
    )
    add_special(backend, roles, roles.values())
    backend.post_processor = template(family.single, family.pair, roles, backend.get_vocab(with_added_tokens=True))
    return backend


def numbered(model: SentencePieceModel, family: Family, settings: Mapping[str, object]) -> list[tuple[str, float, int]]:
    """Returns (text, score, type) by the id the model knows, which is not always the one in the file."""
    pieces = list(model.pieces)
    if family.begins:
        # fairseq numbers <s>, <pad>, </s>, <unk> first where the file has <unk>, <s>, </s>.
        pieces = [(token, 0.0, UNKNOWN if token == "<unk>" else CONTROL) for token in family.begins] + pieces[3:]
    ends = family.ends
    if family is FAMILIES["t5"]:
        ends = [f"<extra_id_{i}>" for i in reversed(range(int(settings.get("extra_ids", 100))))]
    known = {text for text, _, _ in pieces}
    return pieces + [(token, 0.0, CONTROL) for token in ends if token not in known]


def marian(model: SentencePieceModel, ids: Mapping[str, int], roles: Mapping[str, str]) -> tokenizers.Tokenizer:
    """One side of a Marian model: the pieces of its SentencePiece file, numbered by vocab.json.

    Pieces that vocab.json lacks take part in the segmentation and are unknown; their ids are past those of vocab.json.
    """
    scores = {text: score for text, score, kind in model.pieces if kind in (NORMAL, USER_DEFINED)}
    codes = [token for token in ids if token.startswith(">>") and token.endswith("<<")]
    kept = {*roles.values(), *codes}
    numbered = sorted(ids, key=ids.__getitem__)
    scored = [
        (token if token in scores or token in kept else OTHER_SIDE + token, scores.get(token, 0.0))
        for token in numbered
    ]
    scored += [(token, score) for token, score in scores.items() if token not in ids]
    backend = tokenizers.Tokenizer(models.Unigram(scored, unk_id=ids[roles["unk"]], byte_fallback=False))
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    add_special(backend, roles, roles.values())
    # The code of the target language is written by the user before the text, so it is no structure to protect.
    backend.add_tokens([AddedToken(code, normalized=False) for code in codes])
    family = FAMILIES["marian"]
    backend.post_processor = template(family.single, family.pair, roles, ids)
    return backend


def add_special(backend: tokenizers.Tokenizer, roles: Mapping[str, str], names: Sequence[str]) -> None:
    """Makes special tokens, by id; the mask takes the space before it, as the word it stands for does."""
    ids = backend.get_vocab(with_added_tokens=True)
    new = sorted(dict.fromkeys(names), key=lambda name: ids.get(name, len(ids)))
    mask = roles.get("mask")
    backend.add_special_tokens([AddedToken(name, lstrip=name == mask, normalized=False) for name in new])


def _albert_cleaning(settings: Mapping[str, object]) -> list[normalizers.Normalizer]:
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    return steps


def _merges(pieces: Sequence[tuple[str, float, int]], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two, earlier pieces first."""
    joined = {text for text, _, kind in pieces if kind not in (CONTROL, UNKNOWN, BYTE)}
    merges = []
    for text in joined:
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in joined and right in joined:
                merges.append((ids[text], len(left), left, right))
    return [(left, right) for _, _, left, right in sorted(merges)]
