"""The cache: content in, the same content out, nothing half-written, damage found."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from converters import cache as cache_module
from converters.cache import Cache, default_cache, key_of, link_or_copy
from converters.ledger import gzip_size_bytes, size_bytes


def filled(folder: Path, text: str = "content") -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_text(text, encoding="utf-8")
    (folder / "sub" / "b.bin").write_text("b", encoding="utf-8")
    return folder


def test_what_goes_in_comes_out(tmp_path):
    cache, out = Cache(tmp_path / "cache"), tmp_path / "out"
    key = key_of({"x": 1})
    assert not cache.get("variant", key, out)
    cache.put("variant", key, filled(tmp_path / "in"), ["a.bin", "sub", "absent"])
    assert cache.get("variant", key, out)
    assert (out / "a.bin").read_text() == "content"
    assert (out / "sub" / "b.bin").read_text() == "b"
    assert not cache.get("source", key, tmp_path / "other")


def test_keys_depend_on_every_value_and_on_the_code(monkeypatch):
    keys = {key_of({"x": 1, "y": 2}), key_of({"y": 2, "x": 1}), key_of({"x": 1, "y": 3}), key_of({"x": 1})}
    assert len(keys) == 3
    monkeypatch.setattr(cache_module, "code_sha256", lambda: "other code")
    assert key_of({"x": 1}) not in keys


@pytest.mark.parametrize("damage", ["change", "remove", "entry", "list"])
def test_damage_is_a_miss_and_is_cleared_away(tmp_path, damage):
    cache, key = Cache(tmp_path / "cache"), key_of({})
    cache.put("variant", key, filled(tmp_path / "in"), ["a.bin", "sub"])
    (stored,) = (tmp_path / "cache").rglob("a.bin")
    entry = stored.parent / "entry.json"
    if damage == "change":
        stored.unlink()
        stored.write_text("tampered", encoding="utf-8")
    elif damage == "remove":
        stored.unlink()
    else:
        entry.write_text("{" if damage == "entry" else "[]", encoding="utf-8")
    assert not cache.get("variant", key, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not entry.exists()
    cache.put("variant", key, tmp_path / "in", ["a.bin"])
    assert cache.get("variant", key, tmp_path / "out")


def test_a_failed_put_leaves_nothing(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache")

    def no_space(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "link_or_copy", no_space)
    with pytest.raises(OSError, match="No space"):
        cache.put("variant", key_of({}), filled(tmp_path / "in"), ["a.bin"])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def _put_many(root: str, content: str) -> None:
    cache = Cache(Path(root) / "cache")
    for number in range(50):
        cache.put("variant", key_of({"n": number}), Path(content), ["a.bin", "sub"])


def test_two_processes_may_write_at_once(tmp_path):
    folder = filled(tmp_path / "in")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put_many, args=(str(tmp_path), str(folder))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    cache = Cache(tmp_path / "cache")
    assert all(cache.get("variant", key_of({"n": n}), tmp_path / f"out{n}") for n in range(50))
    assert not list((tmp_path / "cache" / "v1" / "tmp").iterdir())


def test_a_copy_serves_where_links_cannot(tmp_path, monkeypatch):
    def no_link(*_args):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    source = filled(tmp_path / "in") / "a.bin"
    link_or_copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "content"
    assert source.stat().st_nlink == 1


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache() == tmp_path / "x" / "ondevice-harness" / "conversions"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "ondevice-harness" / "conversions"


def test_gzip_sizes_are_the_same_everywhere(tmp_path):
    (tmp_path / "a").write_bytes(b"0" * 100_000)
    (tmp_path / "other name").write_bytes(b"0" * 100_000)
    os.utime(tmp_path / "a", (1, 1))
    assert gzip_size_bytes([tmp_path / "a"]) == gzip_size_bytes([tmp_path / "other name"]) == 133
    assert size_bytes([tmp_path / "a", tmp_path / "other name"]) == 200_000
