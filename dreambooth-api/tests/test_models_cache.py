"""One machine's cache of models: what is open stays, what is wrong is never used, the bound is kept."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from dreambooth_api.models.artifact import MANIFEST
from dreambooth_api.models.cache import entry
from dreambooth_api.models.cache.space import ModelTooLarge
from dreambooth_api.models.store import ModelStore
from enlight_common.errors import InvalidField, StorageFull, StoreCorrupt, StoreUnavailable, UnknownModel
from models_parts import LARGE, OtherProcess, disk_bytes, is_right, manifest, publish, result, store_at

SIZE = 200_000
#: Room for three models of SIZE with their bookkeeping, and not for four.
THREE = 3 * (SIZE + 40_000) + 100_000


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return store_at(tmp_path)


def fetch(store: ModelStore, *model_ids: str) -> None:
    for model_id in model_ids:
        with store.open(model_id) as artifact:
            assert is_right(artifact)


def cached(store: ModelStore) -> list[str]:
    """Least recently used first."""
    return [model.key.model_id for model in store.cache.models()]


def publish_many(store: ModelStore, folder: Path, *model_ids: str, size: int = SIZE) -> None:
    for seed, model_id in enumerate(model_ids):
        publish(store, folder / f"result-{model_id}", model_id, size, seed)


def leftovers(store: ModelStore) -> list[Path]:
    space = store.cache.inventory
    return [path for folder in (space.incoming, space.trash, space.damaged) for path in folder.iterdir()]


def test_a_model_is_fetched_once_and_hit_then(store: ModelStore, tmp_path: Path) -> None:
    published = publish(store, tmp_path / "result", "shoe")
    for _ in range(3):
        with store.open("shoe") as artifact:
            assert artifact.manifest == published
            assert is_right(artifact)
    counts = store.cache.counts
    assert (counts.misses, counts.hits) == (1, 2)
    assert counts.fetched_bytes == sum(file.size for file in published.files)
    assert leftovers(store) == []
    assert list(store.cache.inventory.locks.iterdir()) == [store.cache.inventory.locks / "space"]


def test_what_this_machine_trained_is_at_hand_without_a_download(store: ModelStore, tmp_path: Path) -> None:
    published = store.publish(result(tmp_path / "result"), manifest())
    with store.open("shoe") as artifact:
        assert artifact.manifest == published
        assert is_right(artifact)
    assert store.cache.counts.misses == 0
    other_machine = store_at(tmp_path, cache="other")
    fetch(other_machine, "shoe")
    assert other_machine.cache.counts.misses == 1


def test_a_model_that_does_not_fit_the_cache_is_published_all_the_same(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    store.publish(result(tmp_path / "result", size=THREE), manifest())
    assert len(store.list()) == 1
    assert store.cached() == []
    with pytest.raises(ModelTooLarge, match="CACHE_MAX_GB"), store.open("shoe"):
        pass
    assert leftovers(store) == []


def test_the_least_recently_used_goes_and_what_is_open_stays(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    publish_many(store, tmp_path, "a", "b", "c", "d", "e")
    fetch(store, "a", "b", "c", "a")
    assert cached(store) == ["b", "c", "a"]
    with store.open("b") as artifact:
        fetch(store, "d", "e")
        assert is_right(artifact), "files are opened late here"
        assert sorted(cached(store)) == ["b", "d", "e"]
        assert store.cache.inventory.used_bytes() <= THREE
        with store.open("d"), store.open("e"):
            with pytest.raises(StorageFull, match="in use"), store.open("a"):
                pass
            fetch(store, "b", "d", "e")
    fetch(store, "a")
    assert store.cache.space.evictions == 3
    assert store.cache.inventory.used_bytes() == disk_bytes(tmp_path / "cache") <= THREE


def test_what_another_process_has_open_stays_until_it_is_killed(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    publish_many(store, tmp_path, "a", "b", "c", "d", "e")
    other = OtherProcess(tmp_path, THREE)
    assert other.ask("open", model_id="a", slot="1") is True
    fetch(store, "b", "c", "d", "e")
    assert "a" in cached(store)
    assert other.ask("check", slot="1") is True
    other.kill()
    fetch(store, "b", "c", "d")
    assert "a" not in cached(store)


def test_a_pinned_model_is_never_evicted_but_by_hand(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    publish_many(store, tmp_path, "a", "b", "c", "d", "e")
    fetch(store, "a")
    key = store.find("a")
    assert store.cache.pin(key)
    fetch(store, "b", "c", "d", "e")
    assert "a" in cached(store)
    with store.open("a"):
        assert not store.cache.evict(key), "it is open"
    assert store.cache.evict(key)
    assert not store.cache.pin(key)


def test_sixteen_processes_that_want_a_cold_model_fetch_it_once(tmp_path: Path) -> None:
    publish(store_at(tmp_path, cache="elsewhere"), tmp_path / "result", "shoe", size=20_000_000)
    others = [OtherProcess(tmp_path) for _ in range(16)]
    for other in others:
        other.ask("counts")  # all are up
    for other in others:
        other.tell("open", model_id="shoe", slot="1")
    assert [other.answer() for other in others] == [True] * 16
    assert sum(other.ask("counts")["misses"] for other in others) == 1
    for other in others:
        other.kill()


def test_where_every_lock_is_granted_a_model_may_be_fetched_twice_but_is_right(tmp_path: Path) -> None:
    publish(store_at(tmp_path, cache="elsewhere"), tmp_path / "result", "shoe", size=20_000_000)
    others = [OtherProcess(tmp_path, locks=False) for _ in range(4)]
    for other in others:
        other.ask("counts")
    for other in others:
        other.tell("open", model_id="shoe", slot="1")
    assert [other.answer() for other in others] == [True] * 4
    for other in others:
        assert other.ask("check", slot="1") is True
        other.kill()
    store = store_at(tmp_path)
    assert cached(store) == ["shoe"]
    assert leftovers(store) == []


def test_a_damaged_file_is_set_aside_and_fetched_again(store: ModelStore, tmp_path: Path) -> None:
    publish(store, tmp_path / "result", "shoe")
    with store.open("shoe") as artifact:
        weights = artifact.folder / "model.safetensors"
    weights.write_bytes(b"w" * weights.stat().st_size)
    fetch(store, "shoe")
    assert (store.cache.counts.damaged, store.cache.counts.misses) == (1, 2)
    assert len(list(store.cache.inventory.damaged.iterdir())) == 1


@pytest.mark.parametrize("damage", ["removed", "shortened", "a link", "no manifest", "another manifest"])
def test_every_kind_of_damage_is_noticed(store: ModelStore, tmp_path: Path, damage: str) -> None:
    publish(store, tmp_path / "result", "shoe")
    with store.open("shoe") as artifact:
        weights, manifest_file = artifact.folder / "model.safetensors", artifact.folder / MANIFEST
    if damage == "removed":
        weights.unlink()
    elif damage == "shortened":
        os.truncate(weights, 10)
    elif damage == "a link":
        weights.rename(tmp_path / "moved")
        weights.symlink_to(tmp_path / "moved")
    elif damage == "no manifest":
        manifest_file.unlink()
    else:
        manifest_file.write_text(manifest_file.read_text().replace("a sks shoe", "a sks boot"))
    fetch(store, "shoe")
    assert store.cache.counts.damaged == 1


def test_what_a_stat_does_not_show_is_noticed_after_a_restart(store: ModelStore, tmp_path: Path) -> None:
    publish(store, tmp_path / "result", "shoe")
    with store.open("shoe") as artifact:
        weights = artifact.folder / "model.safetensors"
    looks = weights.stat()
    with weights.open("r+b") as file:
        file.write(b"????")
    os.utime(weights, ns=(looks.st_atime_ns, looks.st_mtime_ns))
    restarted = store_at(tmp_path)
    fetch(restarted, "shoe")
    assert restarted.cache.counts.damaged == 1


def test_a_file_that_was_touched_but_is_right_is_kept(store: ModelStore, tmp_path: Path) -> None:
    publish(store, tmp_path / "result", "shoe")
    with store.open("shoe") as artifact:
        os.utime(artifact.folder / "model.safetensors")
    fetch(store, "shoe", "shoe")
    assert (store.cache.counts.damaged, store.cache.counts.misses) == (0, 1)


def test_wrong_bytes_from_the_store_are_refused(store: ModelStore, tmp_path: Path) -> None:
    published = publish(store, tmp_path / "result", "shoe")
    path = tmp_path / "objects/models/default/shoe" / published.version / "model.safetensors"
    right = path.read_bytes()
    path.write_bytes(b"?" * len(right))
    for _ in range(2):
        with pytest.raises(StoreCorrupt), store.open("shoe"):
            pass
    path.write_bytes(right[:-1])
    with pytest.raises(StoreCorrupt), store.open("shoe"):
        pass
    assert leftovers(store) == []
    assert cached(store) == []
    path.write_bytes(right)
    fetch(store, "shoe")


@pytest.mark.parametrize(
    "path",
    [
        *("../outside.json", "/outside.json", "a/../../outside.json", "a//b.json", "x" * 300 + ".json"),
        *("x.bin", ".lock", "model.json", "a\0.json", "é.json", ""),
        *("model.safetensors", "model.safetensors/b.json"),
    ],
)
def test_a_manifest_that_reaches_outside_is_refused(store: ModelStore, tmp_path: Path, path: str) -> None:
    published = publish(store, tmp_path / "result", "shoe")
    file = published.files[0].model_copy(update={"path": path})
    evil = published.model_copy(update={"files": [*published.files, file]})
    target = tmp_path / "objects/models/default/shoe" / published.version / MANIFEST
    target.write_bytes(evil.to_bytes())
    with pytest.raises(StoreCorrupt, match="names a file"), store.open("shoe"):
        pass
    assert leftovers(store) == []


def test_a_request_that_cannot_be_satisfied_costs_the_others_nothing(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    publish_many(store, tmp_path, "a", "b", "c")
    publish(store, tmp_path / "large", "large", size=2 * SIZE)
    fetch(store, "a", "b", "c")
    with store.open("a"), store.open("b"):
        with pytest.raises(StorageFull), store.open("large"):
            pass
        assert sorted(cached(store)) == ["a", "b", "c"]


def test_two_who_find_the_same_damage_fetch_once_and_both_hold_what_was_fetched(tmp_path: Path) -> None:
    here, other = store_at(tmp_path), store_at(tmp_path)
    publish(here, tmp_path / "result", "shoe")
    with here.open("shoe") as artifact, other.open("shoe") as theirs:
        (artifact.folder / "model.safetensors").write_bytes(b"?")
        with other.cache.hashed(theirs) as right:
            assert is_right(right)
        assert is_right(artifact)
        assert not other.cache.evict(artifact.manifest.key), "it is open, also what took its place"
        with here.cache.hashed(artifact) as right:
            assert is_right(right)
    counts = here.cache.counts, other.cache.counts
    assert sum(count.damaged for count in counts) == 1
    assert sum(count.misses for count in counts) == 2
    assert len(list(here.cache.inventory.damaged.iterdir())) == 1
    assert here.cache.evict(artifact.manifest.key)


def test_a_model_that_cannot_be_read_just_now_is_kept(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, tmp_path / "result", "shoe")
    fetch(store, "shoe")
    restarted = store_at(tmp_path)
    with monkeypatch.context() as patch:

        def no_descriptors_left(path: Path) -> str:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch.setattr(entry, "sha256_of", no_descriptors_left)
        with pytest.raises(OSError, match="open files"), restarted.open("shoe"):
            pass
    fetch(restarted, "shoe")
    assert (restarted.cache.counts.damaged, restarted.cache.counts.misses) == (0, 0)


def test_what_lies_under_a_models_name_and_is_no_entry_gives_way(store: ModelStore, tmp_path: Path) -> None:
    published = publish(store, tmp_path / "result", "shoe")
    folder = store.cache.inventory.folder_of(published.key)
    folder.mkdir(parents=True)
    (folder / "left").write_bytes(b"?" * 50_000)
    assert store.cache.inventory.used_bytes() == disk_bytes(tmp_path / "cache")
    fetch(store, "shoe", "shoe")
    assert store.cache.counts.misses == 1


def test_a_cache_removed_during_a_download_fails_that_one_alone(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, tmp_path / "result", "shoe")
    get = store.catalog.objects.get

    def get_after_removal(key: str, target: BinaryIO, *, size: int | None = None) -> int:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return get(key, target, size=size)

    with monkeypatch.context() as patch:
        patch.setattr(store.catalog.objects, "get", get_after_removal)
        with pytest.raises(StoreUnavailable), store.open("shoe"):
            pass
    fetch(store, "shoe")


def test_a_model_is_published_whatever_happens_to_the_cache(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store.cache.space, "stage", full)
        store.publish(result(tmp_path / "result"), manifest("shoe"))
    assert cached(store) == []
    fetch(store, "shoe")


def test_what_the_cache_takes_can_be_told_while_models_come_and_go(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    publish_many(store, tmp_path, "a", "b", "c", "d", "e")
    others = [OtherProcess(tmp_path, THREE) for _ in range(2)]
    for other in others:
        for model_id in "abcde" * 20:
            other.tell("open", model_id=model_id, slot=model_id)
            other.tell("close", slot=model_id)
    for _ in range(300):
        assert store.cache.inventory.used_bytes() > 0
        store.cached()
    for other in others:
        other.kill()


def test_a_model_deleted_by_mistake_from_the_cache_is_served_again(store: ModelStore, tmp_path: Path) -> None:
    published = publish(store, tmp_path / "result", "shoe")
    with store.open("shoe"):
        store.cache.remove(published.key)
        fetch(store, "shoe", "shoe")
    assert store.cache.counts.misses == 1


def test_a_deletion_that_fails_halfway_deletes_the_model(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, tmp_path / "result", "shoe")
    fetch(store, "shoe")
    delete = store.catalog.objects.delete

    def delete_the_manifest_only(key: str) -> None:
        if not key.endswith(MANIFEST):
            raise StoreUnavailable("the object store went away")
        delete(key)

    with monkeypatch.context() as patch:
        patch.setattr(store.catalog.objects, "delete", delete_the_manifest_only)
        with pytest.raises(StoreUnavailable):
            store.delete("shoe")
    assert cached(store) == []
    with pytest.raises(UnknownModel), store.open("shoe"):
        pass


def test_a_large_manifest_counts_as_what_it_is(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    large = manifest("shoe").model_copy(update={"training": {"captions": ["word " * 1000] * 200}})
    store.catalog.publish(result(tmp_path / "result", size=1000), large)
    with pytest.raises(ModelTooLarge), store.open("shoe"):
        pass
    assert disk_bytes(tmp_path / "cache") <= THREE


def test_a_new_version_is_opened_by_its_id_and_the_old_one_by_its_version(
    store: ModelStore, tmp_path: Path
) -> None:
    old = publish(store, tmp_path / "result", "shoe")
    with store.open("shoe") as running:
        other_instance = store_at(tmp_path)
        new = other_instance.publish(result(tmp_path / "result", seed=2), manifest("shoe"))
        assert is_right(running)
        assert running.manifest == old
    with store.open("shoe") as artifact:
        assert artifact.manifest == new
    with store.open(f"shoe@{old.version}") as artifact:
        assert artifact.manifest == old


def test_deleted_models_stay_for_who_has_them_open_and_for_nobody_else(
    store: ModelStore, tmp_path: Path
) -> None:
    old = publish(store, tmp_path / "result", "shoe")
    new = publish(store, tmp_path / "result", "shoe", seed=1)
    fetch(store, f"shoe@{old.version}")
    with store.open("shoe") as artifact:
        assert [key.version for key in store.delete(f"shoe@{new.version}")] == [new.version]
        assert is_right(artifact)
        with store.open("shoe") as before:
            assert before.manifest == old
        with pytest.raises(UnknownModel), store.open(f"shoe@{new.version}"):
            pass
    assert not artifact.folder.exists()
    store.delete("shoe")
    assert cached(store) == []
    with pytest.raises(UnknownModel), store.open("shoe"):
        pass
    with pytest.raises(UnknownModel):
        store.delete("shoe")


def test_what_another_machine_published_and_deleted_shows_when_the_store_is_asked_again(
    tmp_path: Path,
) -> None:
    here, there = store_at(tmp_path), store_at(tmp_path, cache="there")
    here.known.fresh_s = 0
    old = there.publish(result(tmp_path / "result"), manifest("shoe"))
    fetch(here, "shoe")
    new = there.publish(result(tmp_path / "result", seed=1), manifest("shoe"))
    with here.open("shoe") as artifact:
        assert artifact.manifest == new
    there.delete(f"shoe@{new.version}")
    with here.open("shoe") as artifact:
        assert artifact.manifest == old
    there.delete("shoe")
    with pytest.raises(UnknownModel), here.open("shoe"):
        pass
    for model in here.cache.models():
        os.utime(model.folder / ".lock", (0, 0))  # long ago, and not published just now
    with pytest.raises(UnknownModel), here.open("shoe"):
        pass
    assert cached(here) == []


@pytest.mark.parametrize(
    "name", ["../shoe", "/x", "", ".hidden", "a/b", "a\0b", "x" * 65, "shoe@../1", "é", 7]
)
def test_ids_that_could_leave_the_cache_are_refused(store: ModelStore, name: str) -> None:
    with pytest.raises(InvalidField), store.open(name):
        pass
    with pytest.raises(InvalidField):
        store.delete(name)
    with pytest.raises(InvalidField), store.open("shoe", tenant=name):
        pass


def test_killed_in_the_middle_of_downloads_the_next_start_repairs_it(tmp_path: Path) -> None:
    publish_many(store_at(tmp_path, cache="elsewhere"), tmp_path, "a", "b", "c", size=30_000_000)
    limit = 70_000_000
    interrupted = 0
    for attempt in range(8):
        other = OtherProcess(tmp_path, limit)
        other.ask("counts")
        for model_id in ("a", "b", "c"):  # the third evicts the first
            other.tell("open", model_id=model_id, slot=model_id)
            other.tell("close", slot=model_id)
        time.sleep(0.02 + 0.03 * attempt)
        other.kill()
        interrupted += any((tmp_path / "cache" / "incoming").iterdir())
        store = store_at(tmp_path, max_bytes=limit)
        assert leftovers(store) == []
        assert store.cache.inventory.used_bytes() == disk_bytes(tmp_path / "cache") <= limit
        for model_id in cached(store):
            fetch(store, model_id)
        assert store.cache.counts.misses == 0, "nothing that was cut short is served"
    assert interrupted > 0


def test_killed_in_the_middle_of_an_eviction_the_rest_goes_at_the_next_start(
    store: ModelStore, tmp_path: Path
) -> None:
    publish_many(store, tmp_path, "a", "b")
    fetch(store, "a", "b")
    space = store.cache.inventory
    # An eviction renames first: this is what kill -9 leaves then, and in the middle of removing files.
    space.folder_of(store.find("a")).rename(space.trash / "cut-short")
    (space.trash / "cut-short" / "model.safetensors").unlink()
    restarted = store_at(tmp_path)
    assert cached(restarted) == ["b"]
    assert leftovers(restarted) == []
    assert restarted.cache.inventory.used_bytes() == disk_bytes(tmp_path / "cache")
    fetch(restarted, "a", "b")


def test_a_cache_that_somebody_removed_is_filled_again(store: ModelStore, tmp_path: Path) -> None:
    publish_many(store, tmp_path, "a", "b")
    with store.open("a"):
        shutil.rmtree(tmp_path / "cache")
        assert store.cached() == []
    fetch(store, "a", "b")
    shutil.rmtree(tmp_path / "cache")
    store.publish(result(tmp_path / "result"), manifest("c"))
    fetch(store, "c")


def test_a_smaller_bound_is_kept_from_the_next_start(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    publish_many(store, tmp_path, "a", "b", "c", "d", "e")
    fetch(store, "a", "b", "c", "d", "e")
    restarted = store_at(tmp_path, max_bytes=THREE)
    assert cached(restarted) == ["c", "d", "e"]
    assert disk_bytes(tmp_path / "cache") <= THREE


def test_downloads_in_flight_count_before_they_arrive(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=THREE)
    publish_many(store, tmp_path, "a", "b", "c", "d")
    fetch(store, "a", "b", "c")
    manifest_of_d, _ = store.catalog.manifest(store.find("d"))
    staging, held = store.cache.space.stage(manifest_of_d, 1000)
    assert "a" not in cached(store)
    assert store.cache.inventory.used_bytes() > disk_bytes(tmp_path / "cache")
    fetch(store, "a")
    assert store.cache.inventory.used_bytes() <= THREE
    held.release()
    store.cache.repair()
    assert not staging.exists()


def test_who_waited_for_a_download_that_failed_does_not_try_it_again(
    store: ModelStore, tmp_path: Path
) -> None:
    published = publish(store, tmp_path / "result", "shoe")
    path = tmp_path / "objects/models/default/shoe" / published.version / "model.safetensors"
    path.write_bytes(b"?" * path.stat().st_size)
    name = hashlib.sha256(f"default/shoe/{published.version}".encode()).hexdigest()[:40]
    with (store.cache.inventory.locks / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcomes: list[str] = []

        def wait() -> None:
            try:
                with store.open("shoe"):
                    outcomes.append("opened")
            except Exception as error:
                outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=wait) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert outcomes == ["StoreCorrupt"] * 8
    assert store.cache.counts.misses == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 50 MB."""
    folder = tmp_path / "cache"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_makes_room_or_refuses_and_goes_on_serving(small_disk: Path, tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=LARGE)
    publish_many(store, tmp_path, "a", "b", "c", "d", size=15_000_000)
    fetch(store, "a", "b", "c", "d")
    assert cached(store) == ["b", "c", "d"], "the disk ends before the bound"
    with store.open("b"), store.open("c"), store.open("d"):
        (small_disk / "others").write_bytes(b"?" * 5_000_000)  # not ours, and not to be evicted
        with pytest.raises(StorageFull, match="disk"):
            fetch(store, "a")
        fetch(store, "b", "c", "d")
    fetch(store, "a")
    assert cached(store) == ["c", "d", "a"]
    assert leftovers(store) == []


def test_a_disk_that_fills_up_during_a_download_leaves_nothing_of_it(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path, max_bytes=LARGE)
    publish_many(store, tmp_path, "a", "b", size=20_000_000)
    fetch(store, "a")
    get = store.catalog.objects.get

    def get_while_others_write(key: str, target: BinaryIO, *, size: int | None = None) -> int:
        with (small_disk / "others").open("wb") as others:
            os.posix_fallocate(others.fileno(), 0, 20_000_000)
        return get(key, target, size=size)

    monkeypatch.setattr(store.catalog.objects, "get", get_while_others_write)
    with store.open("a"):
        with pytest.raises(StorageFull), store.open("b"):
            pass
        assert leftovers(store) == []
        fetch(store, "a")
    fetch(store, "b")
    assert cached(store) == ["b"], "with nothing open there is room"
