"""write_atomic leaves the old file or the new one."""

import pytest

from aillm_tf.files import write_atomic


def test_replaces_the_file(tmp_path):
    write_atomic(tmp_path / "a.txt", "old")
    write_atomic(tmp_path / "a.txt", "新")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "新"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
