"""Makes tiny tokenizers of every family and the ids transformers gives: ``python tests/golden/make_tokenizers.py``.

Needs transformers, sentencepiece and the data folder beside the project (WikiText-2, Multi30k). Writes beside itself
    tokenizers/texts.json         texts that break tokenizers, and pairs of them
    tokenizers/<family>/          the files a folder of this family has on the hub, with small vocabularies
    tokenizers/<family>/golden.json
                                  ids of the texts and pairs, and the texts the ids decode to, by ``AutoTokenizer``
The SentencePiece models carry a charsmap of some hundred rules in place of the full one of 240 KB.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import unicodedata
import warnings
from pathlib import Path

import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent / "tokenizers"
DATA = Path(__file__).parents[3] / "shared" / "data"
CHINESE = [
    *(
        "今天天气很好，我们去公园。",
        "这本书很有意思，值得一读。",
        "房间很干净，服务也不错！",
        "我不喜欢这家酒店。",
        "中国的历史很长。",
    ),
    *("屏幕太小了，电池也不好用。", "价格便宜，质量很好。", "他们明天去北京。"),
] * 12
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    *("", " ", "   ", "\n", "\t \n", "a", "A", ".", "Hello world", " Hello world", "Hello  world", "Hello   world "),
    *("  leading and trailing  ", "Two little dogs are playing in the snow.", "Zwei Hunde spielen im Schnee."),
    *(
        "The plot is thin, but the actors save it.",
        "I can't, won't, and they'll say we're he'd I'M",
        "don''t ``quote''",
    ),
    *(
        "3.14 % of 1,000,000 people in 1999, 42nd",
        "12345678901234567890",
        "x=y+z; (a[b]{c}) <d> & \"e\" 'f' @g #h /i\\j|k~l^m",
    ),
    *("Café déjà vu naïve coöperate Ångström", "Cafe\u0301 de\u0301ja\u0300 vu", "ÀÉÎÕÜ ß ẞ İI ıi ŐŰ œ æ ø"),
    *(
        "你好，世界！",
        "今天天气很好，我们去公园。",
        "mixed 中文 and English混合",
        "日本語のテキスト カタカナ ひらがな",
        "한국어 텍스트",
    ),
    *("שלום עולם", "مرحبا بالعالم", "Привет, мир", "สวัสดีชาวโลก", "नमस्ते दुनिया", "Γειά σου Κόσμε ΟΔΟΣ"),
    *("😀😃 smile 😂!", "👨‍👩‍👧‍👦 family", "🇩🇪🇨🇳 flags", "👍🏽 thumbs", "☃ ☃️ ❤️", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕊𝕥𝕪𝕝𝕖"),
    *(
        "ﬁne ﬂow ﬀ ½ ¼ ² ™ № Ⅷ",
        "ＦＵＬＬ　ｗｉｄｔｈ　ｔｅｘｔ！",
        "ｶﾀｶﾅ",
        "non\u00a0breaking\u2003em\u2009thin\u200bzero\ufeffbom",
    ),
    *(
        "soft\u00adhyphen",
        "control\x00\x01\x07\x1f\x7f\x85chars",
        "a\u0300\u0301\u0302\u0303b",
        "tab\tnew\nline\r\nreturn\rvertical\x0bfeed\x0c",
    ),
    *(
        "line one\nline two\n\nline three\n\n\n\nend",
        "    indented code:\n        return x",
        "…—–‘’“”«»„‚",
        "▁under ▁▁ line▁",
        "Ġspecial Ċ chars",
    ),
    *(
        "replacement \ufffd and \ufffe\uffff",
        "private \ue000 \U000f0000",
        "tag \U000e0041 vs \ufe0f",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "a" * 120,
    ),
    *(
        "https://example.org/path?q=1&r=a%20b#frag",
        "user.name+tag@example.co.uk",
        "C:\\Users\\x",
        "<p>html &amp; <b>bold</b></p>",
        "\u202eRTL override",
    ),
    *("Ω Ω K K Å Å", "e\u0323\u0301 o\u0308\u0304", "\u1e9b\u0323", "각 \u1100\u1161\u11a8", "؟،٠١٢", "०१२", "①②③"),
]
PAIRS = [
    ["Two dogs play.", "Where do they play?"],
    ["今天天气很好", "Hello  world"],
    ["", "second only"],
    ["first only", ""],
    ["", ""],
    ["👍🏽 thumbs", "Café déjà"],
]

CHAT = [
    {"role": "system", "content": "You are  helpful."},
    {"role": "user", "content": "Where do two dogs play? 你好 😀"},
    {"role": "assistant", "content": "In the snow."},
    {"role": "user", "content": " Why?\n"},
    {"role": "assistant", "content": "They like it."},
]


def corpus() -> tuple[list[str], list[str]]:
    """English and German lines."""
    wiki = next(path for path in sorted((DATA / "wikitext2").iterdir()) if "valid" in path.name)
    english = [line.strip() for line in wiki.read_text("utf-8").split("\n") if line.strip()][:400]
    pairs = [gzip.decompress((DATA / "multi30k" / f"train.{code}.gz").read_bytes()).decode() for code in ("en", "de")]
    return english + pairs[0].split("\n")[:600], pairs[1].split("\n")[:800]


def charsmap_rules() -> str:
    """A small part of NMT-NFKC: white space, control characters, compatibility forms, accents put together."""
    rules = {(code,): "" for code in (*range(1, 9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F, 0xAD, 0xFEFF)}
    rules |= {(code,): " " for code in (0x9, 0xA, 0xC, 0xD, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0xFFFD)}
    ranges = [(0xA0, 0x180), (0x2000, 0x2070), (0x2100, 0x2180), (0x3000, 0x3001), (0xFB00, 0xFB07), (0xFF01, 0xFFA0)]
    for code in (code for low, high in ranges for code in range(low, high)):
        normal = unicodedata.normalize("NFKC", chr(code))
        if normal != chr(code):
            rules.setdefault((code,), normal)
    for letter in "aeiounAEIOUN":
        for mark in "\u0300\u0301\u0302\u0303\u0308":
            normal = unicodedata.normalize("NFC", letter + mark)
            if len(normal) == 1:
                rules[ord(letter), ord(mark)] = normal
    lines = [
        " ".join(f"{code:X}" for code in source) + "\t" + " ".join(f"{ord(c):X}" for c in target)
        for source, target in sorted(rules.items())
    ]
    return "\n".join(lines) + "\n"


def sentences(lines: list[str], charsmap: bool = True, **options) -> bytes:
    """Trains a SentencePiece model."""
    rules = HERE / "rules.tsv"
    if charsmap:
        rules.write_text(charsmap_rules(), "utf-8")
        options["normalization_rule_tsv"] = str(rules)
    else:
        options["normalization_rule_name"] = "identity"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, num_threads=1, **options
    )
    rules.unlink(missing_ok=True)
    return model.getvalue()


def byte_level(lines: list[str], special: list[str], size: int, pre_tokenizer) -> tokenizers.Tokenizer:
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(lines, trainer)
    return learner


def folder(name: str, config: dict, tokenizer_config: dict | None, **files: bytes) -> Path:
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config) + "\n", "utf-8")
    if tokenizer_config is not None:
        text = json.dumps(tokenizer_config, indent=1, ensure_ascii=False)
        (path / "tokenizer_config.json").write_text(text + "\n", "utf-8")
    for file, content in files.items():
        (path / file.replace("__", ".")).write_bytes(content)
    return path


def write_bert(english: list[str], german: list[str]) -> None:
    """Words and characters; what BERT's trainer would have found matters little here."""
    for name, lowercase in {"bert_uncased": True, "bert_cased": False}.items():
        learner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        learner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=BERT_TOKENS, show_progress=False)
        learner.train_from_iterator(english + german + CHINESE + TEXTS, trainer)
        ids = learner.get_vocab()
        vocabulary = "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__))
        config = {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"}
        folder(name, {"model_type": "bert"}, config, vocab__txt=vocabulary.encode())


def write_byte_level(english: list[str], german: list[str]) -> None:
    lines = english + german + CHINESE
    fairseq = ["<s>", "<pad>", "</s>", "<unk>"]
    for name, special in {"gpt2": [], "roberta": fairseq, "bart": fairseq}.items():
        learner = byte_level(lines, special, 500, pre_tokenizers.ByteLevel(add_prefix_space=False))
        model = json.loads(learner.to_str())["model"]
        vocabulary, merges = model["vocab"], [" ".join(pair) for pair in model["merges"]]
        vocabulary["<mask>" if special else "<|endoftext|>"] = len(vocabulary)
        files = {
            "vocab__json": json.dumps(vocabulary, ensure_ascii=False).encode(),
            "merges__txt": ("#version: 0.2\n" + "\n".join(merges) + "\n").encode(),
        }
        folder(name, {"model_type": name}, {"model_max_length": 512} if special else None, **files)

    contractions = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    patterns = {"llama3": contractions + r"\p{N}{1,3}" + rest, "qwen2": contractions + r"\p{N}" + rest}
    special = {
        "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }
    for name, pattern in patterns.items():
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        learner = byte_level(
            lines, [], 500, pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        )
        learner.decoder = decoders.ByteLevel()
        learner.add_special_tokens(special[name])
        if name == "llama3":
            description = json.loads(learner.to_str())
            description["model"]["ignore_merges"] = True
            learner = tokenizers.Tokenizer.from_str(json.dumps(description))
            begin = "<|begin_of_text|>"
            learner.post_processor = processors.Sequence(
                [
                    processors.ByteLevel(trim_offsets=False),
                    processors.TemplateProcessing(
                        single=f"{begin} $A",
                        pair=f"{begin} $A {begin}:1 $B:1",
                        special_tokens=[(begin, learner.token_to_id(begin))],
                    ),
                ]
            )
            config = {"bos_token": begin, "eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast"}
            config["chat_template"] = (
                "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
                "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
            )
            folder(name, {"model_type": "llama"}, config, tokenizer__json=compact(learner))
        else:
            learner.normalizer = normalizers.NFC()
            learner.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False)])
            learner.post_processor = processors.ByteLevel(trim_offsets=False)
            config = {
                "bos_token": None,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "tokenizer_class": "Qwen2Tokenizer",
            }
            path = folder(name, {"model_type": "qwen2"}, config, tokenizer__json=compact(learner))
            (path / "chat_template.jinja").write_text(
                "{%- for message in messages -%}\n"
                "{{- '<|im_start|>' + message.role + '\\n' -}}\n"
                "{%- if message.role == 'assistant' -%}\n"
                "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}\n"
                "{%- else -%}\n{{ message.content + '<|im_end|>' }}\n{%- endif -%}\n{{- '\\n' -}}\n"
                "{%- endfor -%}\n{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}",
                "utf-8",
            )


def compact(learner: tokenizers.Tokenizer) -> bytes:
    return json.dumps(json.loads(learner.to_str()), ensure_ascii=False, separators=(",", ":")).encode()


def write_sentencepiece(english: list[str], german: list[str]) -> None:
    lines = english + german + CHINESE
    fairseq = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    unigram = {"model_type": "unigram", "vocab_size": 600, "character_coverage": 1.0}
    model = sentences(lines, **unigram, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    folder("t5", {"model_type": "t5"}, None, spiece__model=model)
    model = sentences(
        lines, **unigram, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"]
    )
    folder("albert", {"model_type": "albert"}, None, spiece__model=model)
    model = sentences(lines, **unigram, **fairseq)
    folder("xlm_roberta", {"model_type": "xlm-roberta"}, None, sentencepiece__bpe__model=model)
    languages = {"src_lang": "en_XX", "tgt_lang": "de_DE"}
    config = {"tokenizer_class": "MBartTokenizer", **languages}
    folder("mbart", {"model_type": "mbart"}, config, sentencepiece__bpe__model=model)
    config = {"tokenizer_class": "MBart50Tokenizer", **languages}
    folder("mbart50", {"model_type": "mbart"}, config, sentencepiece__bpe__model=model)

    bpe = {"model_type": "bpe", "vocab_size": 700, "character_coverage": 0.9995, "byte_fallback": True}
    bpe |= {"split_digits": True, "allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False}
    model = sentences(lines, charsmap=False, **bpe, **fairseq)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    folder("llama2", {"model_type": "llama"}, config, tokenizer__model=model)
    symbols = ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "  ", "   ", "<table>"]
    model = sentences(
        lines,
        charsmap=False,
        **bpe,
        **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "eos_piece": "<eos>", "bos_piece": "<bos>"},
        add_dummy_prefix=False,
        user_defined_symbols=symbols,
    )
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False}
    folder("gemma", {"model_type": "gemma"}, config, tokenizer__model=model)

    sides = {"source": sentences(english, **{**unigram, "vocab_size": 400}, **fairseq)}
    sides["target"] = sentences(german, **{**unigram, "vocab_size": 400}, **fairseq)
    pieces = {"</s>": None, "<unk>": None}
    for side in sides.values():
        processor = sentencepiece.SentencePieceProcessor(model_proto=side)
        pieces |= dict.fromkeys(processor.id_to_piece(i) for i in range(3, processor.get_piece_size()))
    # Real vocabularies hold codes of target languages, and now and then lack a piece.
    del pieces[next(piece for piece in pieces if piece.startswith("▁") and len(piece) > 3)]
    pieces |= dict.fromkeys([">>deu<<", "<pad>"])
    vocabulary = json.dumps({piece: i for i, piece in enumerate(pieces)}, ensure_ascii=False).encode()
    config = {"source_lang": "eng", "target_lang": "deu", "tokenizer_class": "MarianTokenizer"}
    folder(
        "marian",
        {"model_type": "marian"},
        config,
        source__spm=sides["source"],
        target__spm=sides["target"],
        vocab__json=vocabulary,
    )


def golden(path: Path) -> None:
    """Writes what transformers makes of the texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    if path.name in ("mbart", "mbart50"):
        # transformers 5.23 leaves mBART's charsmap out, and keeps mBART-50's spaces; the models were trained on text
        # that went through both, as XLM-R's does.
        reference = transformers.AutoTokenizer.from_pretrained(HERE / "xlm_roberta", local_files_only=True)
        tokenizer._tokenizer.normalizer = reference._tokenizer.normalizer
        tokenizer._tokenizer.pre_tokenizer = reference._tokenizer.pre_tokenizer
    pairs = [] if path.name == "marian" else PAIRS
    numbers = {"class": type(tokenizer).__name__, "ids": [tokenizer(text)["input_ids"] for text in TEXTS]}
    # As batches of one: transformers takes an empty second text for none otherwise.
    encoded = [tokenizer([first], [second], return_token_type_ids=True) for first, second in pairs]
    numbers["pairs"] = [row["input_ids"][0] for row in encoded]
    numbers["pair_segments"] = [row["token_type_ids"][0] for row in encoded]
    numbers["decoded"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in numbers["ids"]]
    if path.name in ("marian", "mbart", "mbart50"):
        numbers["targets"] = [tokenizer(text_target=text)["input_ids"] for text in TEXTS]
    if tokenizer.chat_template:
        numbers["chat"] = tokenizer.apply_chat_template(CHAT, return_dict=False)
        numbers["chat_prompt"] = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=False)
    if path.name == "qwen2":
        marked = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
        numbers["chat_answers"] = marked["assistant_masks"]
    text = json.dumps(numbers, ensure_ascii=False, separators=(",", ":")).replace('],"', '],\n"')
    (path / "golden.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
    HERE.mkdir(exist_ok=True)
    english, german = corpus()
    write_bert(english, german)
    write_byte_level(english, german)
    write_sentencepiece(english, german)
    text = json.dumps({"texts": TEXTS, "pairs": PAIRS, "chat": CHAT}, ensure_ascii=True, indent=0)
    (HERE / "texts.json").write_text(text + "\n", "utf-8")
    for path in sorted(entry for entry in HERE.iterdir() if entry.is_dir()):
        golden(path)
        print(f"{path.name}: {sum(file.stat().st_size for file in path.iterdir()) // 1024} KB")
