"""Published scores: recognised by the names of data, shown beside ours, and named with a source each."""

import dataclasses
import json

import pytest

from aillm_tf.training.references import benchmarks, for_run, published, recognised
from aillm_tf.training.report import write_report
from aillm_tf.training.run import Run


@pytest.mark.parametrize(
    ("source", "benchmark"),
    [
        ("hf:nyu-mll/glue/sst2:test", "sst2"),
        ("data/SST-2/train.tsv", "sst2"),
        ("sst21.tsv", None),
        ("wnut17/emerging.test.annotated", "wnut17"),
        ("hf:conll2003", "conll2003"),
        ("squad/train-v1.1.json", "squad1"),
        ("squad2/dev-v2.0.json", "squad2"),
        ("hf:cnn_dailymail/3.0.0", "cnn_dailymail"),
        ("hf:EdinburghNLP/xsum", "xsum"),
        ("maxsum.tsv", None),
        ("mine.tsv", None),
    ],
)
def test_data_are_recognised_by_their_names(source, benchmark):
    assert recognised([source, None]) == benchmark


def test_data_of_two_benchmarks_are_none():
    assert recognised(["sst2/train.tsv", "squad2/dev-v2.0.json"]) is None


def test_a_run_may_name_its_benchmark_or_none():
    data = {"train": {"source": "wmt14.en", "target": "wmt14.de"}, "text": "sst2"}
    assert for_run({"data": data})["name"] == "wmt14_en_de"
    assert for_run({"data": data, "benchmark": "xsum"})["name"] == "xsum"
    assert for_run({"data": data, "benchmark": "none"}) is None
    with pytest.raises(ValueError, match=r"no published scores of 'squad3': did you mean squad"):
        published("squad3")


def test_every_score_has_a_source_and_our_scale():
    for name, facts in benchmarks().items():
        for row in facts["scores"]:
            assert row["source"].rpartition(", ")[2].startswith("https://"), name
            assert 0.0 < row.get("accuracy", 0.5) < 1.0
            assert all(
                row[metric] > 1.0
                for metric in ("exact", "bleu", "rouge1", "rouge2", "rougeL", "rougeLsum")
                if metric in row
            )


def test_the_report_has_ours_beside_the_published(tmp_path):
    config = "data:\n  train: sst2/train.tsv\n"
    report = write_report(tmp_path, {"scores": {"accuracy": 0.8765}, "scored_on": "test"}, {}, config)
    page = (tmp_path / "report.html").read_text()
    assert "Published scores: SST-2" in page and "this model" in page and "0.8765" in page and "Kim 2014" in page
    assert json.loads((tmp_path / "report.json").read_text())["references"] == report["references"]


def test_a_run_with_an_unknown_benchmark_does_not_begin(tmp_path):
    @dataclasses.dataclass
    class Config:
        benchmark: str = "sst3"

    with pytest.raises(ValueError, match="did you mean sst2"):
        Run(tmp_path / "run", Config())
    assert not (tmp_path / "run").exists()
