"""What an archive may make us write, and what it may not."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from aillm_tf.weights.archive import unpack


def zip_with(tmp_path, *names: str, file="p-1-py3-none-any.whl"):
    with zipfile.ZipFile(tmp_path / file, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return tmp_path / file


def tar_with(tmp_path, *members: tarfile.TarInfo):
    with tarfile.open(tmp_path / "p-1.tar.gz", "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return tmp_path / "p-1.tar.gz"


@pytest.mark.parametrize("name", ["d/../../evil", "d//abs", "d/./x", "d/..\\evil", "d/c:evil"])
def test_zip_member_that_leaves_the_folder_is_refused(tmp_path, name):
    file = zip_with(tmp_path, "d/ok", name)
    with pytest.raises(RuntimeError, match="outside the folder"):
        unpack(file, "d", tmp_path / "out" / "d")
    assert not (tmp_path / "evil").exists()


def test_tar_member_that_leaves_the_folder_is_refused(tmp_path):
    file = tar_with(tmp_path, tarfile.TarInfo("p-1/d/../../../evil"))
    with pytest.raises(RuntimeError, match="outside the folder"):
        unpack(file, "d", tmp_path / "out" / "d")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_link_or_device_is_refused(tmp_path, kind):
    member = tarfile.TarInfo("p-1/d/link")
    member.type, member.linkname = kind, "/etc/passwd"
    file = tar_with(tmp_path, member)
    with pytest.raises(RuntimeError, match="link or a device"):
        unpack(file, "d", tmp_path / "out" / "d")


def test_sdist_as_zip_leaves_out_its_top_folder(tmp_path):
    file = zip_with(tmp_path, "p-1/d/a.txt", file="p-1.zip")
    unpack(file, "d/a.txt", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "content"


def test_folder_does_not_take_its_namesakes(tmp_path):
    file = zip_with(tmp_path, "d/a.txt", "d2/b.txt")
    unpack(file, "d", tmp_path / "d")
    assert [f.name for f in (tmp_path / "d").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["p-1-py3-none-any.whl", "p-1.tar.gz"])
def test_damaged_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b garbage")
    with pytest.raises(RuntimeError, match=f"{name} is damaged"):
        unpack(tmp_path / name, "d", tmp_path / "d")
