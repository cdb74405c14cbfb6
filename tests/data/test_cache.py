import errno
import json
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.data import cache as module
from t2ilab.data.cache import ArrayCache, cache_root, canonical_json, digest_of, open_or_fill

KEY = {"encoder": "abc", "resolution": 64, "captions": ["a", "b"], "nested": {"scale": 0.5, "kind": None}}
ROWS = 23


def compute(indices):
    base = torch.tensor(indices)
    return {
        "latents": (base[:, None, None] + torch.arange(6).view(2, 3) / 8).half(),
        "tokens": (base[:, None] * torch.tensor([1.0, -2.0])).bfloat16(),
        "mask": base[:, None] % torch.tensor([2, 3, 5]) == 0,
        "length": base * 10**10,
    }


def fill(root, key=KEY, function=compute, **options):
    return open_or_fill(root, key, ROWS, function, chunk=5, **options)


def never(indices):
    raise AssertionError("the cache was computed again")


def test_cached_rows_equal_computed_ones_in_any_order(tmp_path):
    cache = fill(tmp_path)
    indices = random.Random(0).choices(range(ROWS), k=40)
    for name, value in compute(indices).items():
        got = cache.rows(name, indices)
        assert got.dtype == value.dtype
        assert torch.equal(got, value)
        assert cache.shape(name) == value.shape[1:]
    assert len(cache) == ROWS
    assert cache.names == ["latents", "tokens", "mask", "length"]


def test_a_complete_cache_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    fill(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / before[-1]).unlink()  # the lock
    refuse_to_write(monkeypatch)
    cache = fill(tmp_path, function=never)
    assert torch.equal(cache.rows("latents", [1, 2]), compute([1, 2])["latents"])
    assert [path.name for path in tmp_path.iterdir()] == [cache.folder.name]


def test_an_incomplete_cache_on_a_read_only_disk_says_what_to_change(tmp_path, monkeypatch):
    refuse_to_write(monkeypatch)
    with pytest.raises(
        OSError, match=r"cannot be written: set T2ILAB_CACHE to a folder that can be"
    ) as caught:
        fill(tmp_path)
    assert caught.value.errno == errno.EROFS


def refuse_to_write(monkeypatch):
    """Opening a file to write fails as on a disk that is mounted read-only, also for the superuser."""
    opened = Path.open

    def open_to_read(path, mode="r", *more, **options):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", open_to_read)


def test_gathered_rows_are_copies_and_leave_the_file_alone(tmp_path):
    cache = fill(tmp_path)
    cache.rows("latents", [1, 2]).zero_()
    assert torch.equal(cache.rows("latents", [1, 2]), compute([1, 2])["latents"])


def test_any_safetensors_reader_opens_the_arrays(tmp_path):
    cache = fill(tmp_path)
    for name, value in compute(list(range(ROWS))).items():
        assert torch.equal(load_file(cache.folder / cache.arrays[name].file)["data"], value)


def test_a_second_start_computes_nothing(tmp_path):
    fill(tmp_path)
    assert len(fill(tmp_path, function=never, verify=True)) == ROWS


def test_progress_is_told_up_to_the_end(tmp_path):
    told = []
    fill(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


def test_every_field_of_the_key_changes_the_digest_and_their_order_does_not():
    changed = [
        KEY | {"encoder": "abd"},
        KEY | {"resolution": 65},
        KEY | {"captions": ["b", "a"]},
        KEY | {"nested": {"scale": 0.25, "kind": None}},
        KEY | {"nested": {"scale": 0.5}},
        KEY | {"more": 1},
        {name: value for name, value in KEY.items() if name != "encoder"},
    ]
    assert len({digest_of(key) for key in [KEY, *changed]}) == 1 + len(changed)
    reordered = dict(reversed(KEY.items())) | {"nested": {"kind": None, "scale": 0.5}}
    assert digest_of(reordered) == digest_of(KEY)


def test_a_key_of_other_than_plain_values_is_refused():
    for value in (torch.zeros(1), float("nan"), object()):
        with pytest.raises(ValueError, match="cache key"):
            canonical_json({"value": value})


def test_another_number_of_rows_is_another_cache(tmp_path):
    assert open_or_fill(tmp_path, KEY, 3, compute).folder != open_or_fill(tmp_path, KEY, 4, compute).folder


def damaged(cache, how):
    file = cache.folder / cache.arrays["latents"].file
    if how == "truncated":
        os.truncate(file, file.stat().st_size - 1)
    elif how == "flipped":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif how == "missing":
        file.unlink()
    elif how == "no manifest":
        (cache.folder / "COMPLETE").unlink()
    elif how == "bad manifest":
        (cache.folder / "COMPLETE").write_text("{")
    elif how == "other key":
        manifest = json.loads((cache.folder / "COMPLETE").read_text())
        manifest["key"]["resolution"] = 128
        (cache.folder / "COMPLETE").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "how", ["truncated", "flipped", "missing", "no manifest", "bad manifest", "other key"]
)
def test_a_damaged_cache_is_noticed_and_made_again(tmp_path, caplog, how):
    damaged(fill(tmp_path), how)
    with pytest.raises(ValueError, match=str(tmp_path)):
        ArrayCache(next(path for path in tmp_path.iterdir() if path.is_dir()), verify=True)
    with caplog.at_level(logging.WARNING):
        cache = fill(tmp_path, verify=True)
    assert "damaged" in caplog.text
    assert torch.equal(cache.rows("latents", range(ROWS)), compute(list(range(ROWS)))["latents"])


class Stop(BaseException):
    pass


def stop_at(row, calls):
    def function(indices):
        calls.append(indices)
        if row in indices:
            raise Stop
        return compute(indices)

    return function


def test_an_interrupted_fill_leaves_no_cache_and_goes_on_where_it_was(tmp_path):
    with pytest.raises(Stop):
        fill(tmp_path, function=stop_at(12, []))
    assert not list(tmp_path.glob("*/COMPLETE"))
    for file in tmp_path.glob("*.partial/*.safetensors"):
        file.write_bytes(file.read_bytes() + b"written after the last note")
    calls = []
    cache = fill(tmp_path, function=lambda indices: calls.append(indices) or compute(indices))
    assert calls[0][0] == 10
    assert torch.equal(cache.rows("tokens", range(ROWS)), compute(list(range(ROWS)))["tokens"])
    assert len(fill(tmp_path, function=never, verify=True)) == ROWS
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("harm", ["short file", "no file", "no sense"])
def test_a_note_that_does_not_fit_its_files_starts_the_fill_afresh(tmp_path, harm):
    with pytest.raises(Stop):
        fill(tmp_path, function=stop_at(12, []))
    (partial,) = tmp_path.glob("*.partial")
    if harm == "short file":
        os.truncate(partial / "0.safetensors", 100)
    elif harm == "no file":
        (partial / "1.safetensors").unlink()
    else:
        (partial / "progress.json").write_text("[]")
    calls = []
    cache = fill(tmp_path, function=lambda indices: calls.append(indices) or compute(indices))
    assert calls[0][0] == 0
    assert torch.equal(cache.rows("latents", range(ROWS)), compute(list(range(ROWS)))["latents"])


def killed_fill(root):
    module.NOTE_SECONDS = -1.0  # a note after every chunk

    def function(indices):
        if 16 in indices:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(indices)

    fill(root, function=function)


def counted_fill(root, barrier):
    barrier.wait()

    def function(indices):
        (root / f"called-{os.getpid()}-{indices[0]}").touch()
        return compute(indices)

    fill(root, function=function)


def test_a_killed_fill_is_taken_up_by_the_next_process(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=killed_fill, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob("*/COMPLETE"))
    calls = []
    cache = fill(tmp_path, function=lambda indices: calls.append(indices) or compute(indices))
    assert calls[0][0] == 15
    assert torch.equal(cache.rows("latents", range(ROWS)), compute(list(range(ROWS)))["latents"])
    assert len(fill(tmp_path, function=never, verify=True)) == ROWS


def test_two_processes_at_once_compute_every_row_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=counted_fill, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(int(path.name.split("-")[2]) for path in tmp_path.glob("called-*")) == [0, 5, 10, 15, 20]


def test_a_copy_of_an_open_cache_maps_the_files_itself(tmp_path):
    cache = fill(tmp_path)
    cache.rows("latents", [0])
    small = pickle.dumps(cache)
    assert len(small) < 4000
    assert torch.equal(pickle.loads(small).rows("latents", [3]), compute([3])["latents"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda i: {"x": torch.full((len(i), 2), float("nan"))}, "not finite"),
        (lambda i: {"x": torch.zeros(len(i) + 1)}, "should be"),
        (lambda i: {"x": torch.zeros(len(i), 1 + i[0])}, "rows 5 to 9"),
        (lambda i: {"x": torch.zeros(len(i), dtype=torch.complex64)}, "complex64"),
        (lambda i: {}, "none"),
    ],
)
def test_a_computation_that_gives_nonsense_is_refused(tmp_path, function, message):
    with pytest.raises(ValueError, match=message):
        fill(tmp_path, function=function)
    assert not list(tmp_path.glob("*/COMPLETE"))


def test_a_cache_that_will_not_fit_is_refused_before_it_is_computed(tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))(100, 90, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="T2ILAB_CACHE"):
        fill(tmp_path)


def test_an_unknown_array_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds .*latents.*not 'latent'"):
        fill(tmp_path).rows("latent", [0])


def test_the_environment_chooses_the_folder_of_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("T2ILAB_CACHE", raising=False)
    assert str(cache_root("somewhere")) == "somewhere"
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path))
    assert cache_root("somewhere") == tmp_path
