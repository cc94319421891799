"""Records: read back by this package and by TensorFlow, which checks the sums."""

import numpy as np
import pytest

from aillm_tf.data.shard_files import Layout, columns, records


@pytest.fixture(scope="module", params=["<u2", "<i4"])
def written(request):
    layout = Layout(21, request.param)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 60_000, (6, 21))
    starts = np.zeros((6, 21), bool)
    starts[:, [0, 7, 15]] = True
    return layout, ids, records(layout, ids, starts, np.array([21, 20, 16, 21, 18, 21]))


def test_rows_come_back_with_the_number_and_the_places_of_their_documents(written):
    layout, ids, raw = written
    token_ids, packed_ids, positions, valid = columns(layout, raw)
    assert np.array_equal(token_ids, ids)
    assert packed_ids[2].tolist() == [1] * 7 + [2] * 8 + [3] + [0] * 5
    assert positions[2].tolist() == [*range(7), *range(8), 0, 0, 0, 0, 0, 0]
    assert valid[2].tolist() == [1] * 16 + [0] * 5


def test_tensorflow_reads_the_records_and_finds_their_checksums_right(written, tmp_path):
    import tensorflow as tf

    layout, ids, raw = written
    (tmp_path / "a.tfrecord").write_bytes(raw.tobytes())
    read = list(tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord")))
    example = tf.io.parse_single_example(read[3], {"token_ids": tf.io.FixedLenFeature([], tf.string)})
    dtype = {"<u2": tf.uint16, "<i4": tf.int32}[layout.dtype]
    assert np.array_equal(tf.io.decode_raw(example["token_ids"], dtype), ids[3])
