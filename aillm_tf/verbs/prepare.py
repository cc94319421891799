"""Prepare a corpus for pretraining: clean, filter and deduplicate text, tokenize it and pack it into shards.

Run the same command again after an interruption: it goes on where it stopped, and ends in the same shards.
"""

from __future__ import annotations

import argparse

from aillm_tf.verbs import positive


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="of the shards, manifest.json and report.html")
    add(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="file (.txt .jsonl .csv .tsv, also .gz .zst), 'glob*', folder, TFDS folder, tfds:, hf: or pypi: uri",
    )
    add("--weights", type=float, nargs="+", default=[], metavar="N", help="copies of each document, one N a source")
    add("--text", default="text", help="column of the text (default: text)")
    add("--documents", choices=["blank", "line", "file"], default="blank", help="what ends a document in .txt")
    add("--on-bad", choices=["raise", "skip"], default="raise", help="at a bad row (default: raise)")
    add("--encoding-errors", choices=["strict", "replace"], default="strict", help="undecodable bytes: bad, or U+FFFD")
    add("--unicode-form", choices=["NFC", "NFKC"], default="NFC")
    add("--keep-markup", action="store_true", help="leave HTML tags and entities in")
    add("--drop", metavar="REGEX", help="take out what matches, before everything else")
    add("--quality", choices=["gopher", "none"], default="gopher", help="rules of quality (default: gopher)")
    add("--min-words", type=int, default=50, metavar="N", help="shorter documents fall away (default: 50)")
    add("--max-words", type=int, default=100_000, metavar="N", help="longer ones do, too (default: 100000)")
    add("--languages", nargs="+", default=[], metavar="CODE", help="keep these: en zh de ... (default: any)")
    add("--similarity", type=float, default=0.65, metavar="S", help="of near-duplicates; 0: exact only (default: 0.65)")
    add("--evaluation", nargs="+", default=[], metavar="SOURCE", help="test data that must not be in the corpus")
    add("--validation", type=float, default=0.01, metavar="N", help="documents, or share, to hold out (default: 0.01)")
    add("--order", choices=["shuffle", "keep"], default="shuffle", help="of the documents (default: shuffle)")
    add("--tokenizer", metavar="SOURCE", help="folder, hf: or pypi: uri; without it one is trained")
    add("--kind", choices=["wordpiece", "bpe", "unigram"], default="wordpiece", help="of a trained tokenizer")
    add("--vocab-size", type=positive, default=32_768, metavar="N", help="multiple of 128 (default: 32768)")
    add("--use", choices=["encoder", "decoder", "seq2seq"], default="encoder", help="of a trained tokenizer")
    add("--sentinels", type=int, default=0, metavar="N", help="in a trained tokenizer, for span corruption (T5: 100)")
    add("--lowercase", action=argparse.BooleanOptionalAction, help="in a trained tokenizer (default: for encoders)")
    add("--length", type=positive, default=512, metavar="N", help="tokens of a row (default: 512)")
    add("--seed", type=int, default=0, metavar="N")
    add("--processes", type=positive, metavar="N", help="that clean text (default: one a core)")


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.data.prepare import prepare
    from aillm_tf.data.prepare_options import PrepareOptions

    given = {name: value for name, value in vars(arguments).items() if name in PrepareOptions.__dataclass_fields__}
    options = PrepareOptions(**given, markup=not arguments.keep_markup)
    manifest = prepare(arguments.folder, options, processes=arguments.processes)
    for name, split in manifest["splits"].items():
        print(
            f"{name}: {split['documents']:,} documents, {split['tokens']:,} tokens in {split['rows']:,} rows of "
            f"{manifest['length']}, {split['filled']:.2%} full"
        )
    print(f"{arguments.folder}/report.html says what fell away and why")
    return 0
