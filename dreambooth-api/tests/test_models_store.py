"""The folder store: whole versions or none, whoever is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dreambooth_api.models.artifact import MANIFEST, BaseReference, Manifest, new_version
from dreambooth_api.models.store import FolderStore, open_store
from enlight_common.errors import Conflict, InvalidField, UnknownModel


def manifest(model_id: str = "shoe", *, tenant: str = "default", version: str = "") -> Manifest:
    return Manifest(
        tenant=tenant,
        model_id=model_id,
        version=version,
        method="lora",
        base=BaseReference(name="enlight/tiny-sd"),
        instance_prompt="a sks shoe",
        created_at="2026-11-21T05:00:00Z",
    )


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    (folder / "unet").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "unet" / "config.json").write_text("{}")
    return folder


def test_what_was_published_opens_with_the_same_files(store: FolderStore, result: Path) -> None:
    published = store.publish(result, manifest())
    with store.open("shoe") as artifact:
        assert artifact == published
        assert (artifact.folder / "model.safetensors").read_bytes() == b"w" * 1000
        files = {entry.path: (entry.size, entry.sha256) for entry in artifact.manifest.files}
    assert files == {
        "model.safetensors": (1000, hashlib.sha256(b"w" * 1000).hexdigest()),
        "unet/config.json": (2, hashlib.sha256(b"{}").hexdigest()),
    }
    assert artifact.bytes == 1002


def test_the_newest_version_is_opened_unless_another_is_named(store: FolderStore, result: Path) -> None:
    versions = [store.publish(result, manifest()).manifest.version for _ in range(3)]
    assert versions == sorted(versions)
    with store.open("shoe") as artifact:
        assert artifact.manifest.version == versions[-1]
    with store.open(f"shoe@{versions[0]}") as artifact:
        assert artifact.manifest.version == versions[0]
    assert [found.version for found in store.list()] == versions[::-1]


def test_tenants_do_not_see_each_other(store: FolderStore, result: Path) -> None:
    store.publish(result, manifest(tenant="ada"))
    assert store.list("default") == []
    assert len(store.list("ada")) == 1
    with pytest.raises(UnknownModel), store.open("shoe"):
        pass


def test_a_folder_without_a_manifest_does_not_exist(store: FolderStore, result: Path) -> None:
    folder = store.publish(result, manifest()).folder
    (folder / MANIFEST).unlink()
    assert store.list() == []
    with pytest.raises(UnknownModel), store.open("shoe"):
        pass


def test_a_damaged_version_gives_way_to_the_one_before(store: FolderStore, result: Path) -> None:
    first = store.publish(result, manifest())
    second = store.publish(result, manifest())
    weights = second.folder / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"w" * 999)
    with store.open("shoe") as artifact:
        assert artifact.manifest.version == first.manifest.version
    with pytest.raises(UnknownModel), store.open(f"shoe@{second.manifest.version}"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 2}'])
def test_a_manifest_that_cannot_be_read_is_none(store: FolderStore, result: Path, content: bytes) -> None:
    folder = store.publish(result, manifest()).folder
    (folder / MANIFEST).write_bytes(content)
    assert store.list() == []


def test_a_version_under_another_name_than_its_own_is_none(store: FolderStore, result: Path) -> None:
    folder = store.publish(result, manifest()).folder
    folder.rename(folder.with_name(new_version()))
    assert store.list() == []


def test_links_are_refused_everywhere(store: FolderStore, result: Path, tmp_path: Path) -> None:
    published = store.publish(result, manifest())
    outside = tmp_path / "outside"
    published.folder.rename(outside)
    published.folder.symlink_to(outside)
    assert store.list() == []
    published.folder.unlink()
    outside.rename(published.folder)
    secret = tmp_path / "secret"
    secret.write_bytes(b"w" * 1000)
    weights = published.folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(secret)
    assert store.list() == []
    (result / "link.json").symlink_to(secret)
    with pytest.raises(InvalidField, match="link"):
        store.publish(result, manifest())


@pytest.mark.parametrize("name", ["weights.bin", "pickle.pkl", "model.ckpt", "run.py", "model.pt"])
def test_only_safetensors_and_texts_are_kept(store: FolderStore, result: Path, name: str) -> None:
    (result / name).write_bytes(b"?")
    with pytest.raises(InvalidField):
        store.publish(result, manifest())
    assert store.list() == []


@pytest.mark.parametrize(
    "name", ["../shoe", "/etc/passwd", "", ".hidden", "a/b", "a\0b", "x" * 65, "shoe@../1", "é"]
)
def test_ids_that_could_leave_the_store_are_refused(store: FolderStore, result: Path, name: str) -> None:
    with pytest.raises(InvalidField), store.open(name):
        pass
    with pytest.raises(InvalidField):
        store.delete(name)
    with pytest.raises(InvalidField):
        store.publish(result, manifest(name))
    with pytest.raises(InvalidField):
        store.list(name)


def test_deleting_keeps_the_files_until_the_last_reader_is_done(store: FolderStore, result: Path) -> None:
    folder = store.publish(result, manifest()).folder
    with store.open("shoe") as artifact, store.open("shoe"):
        store.delete("shoe")
        assert store.list() == []
        with pytest.raises(UnknownModel), store.open("shoe"):
            pass
        assert (artifact.folder / "model.safetensors").read_bytes() == b"w" * 1000
    assert not folder.exists()
    with pytest.raises(UnknownModel):
        store.delete("shoe")


def test_one_version_can_be_deleted_alone(store: FolderStore, result: Path) -> None:
    versions = [store.publish(result, manifest()).manifest.version for _ in range(2)]
    store.delete(f"shoe@{versions[1]}")
    assert [found.version for found in store.list()] == versions[:1]


def test_what_a_killed_deleter_left_goes_when_the_store_is_opened_again(
    store: FolderStore, result: Path
) -> None:
    folder = store.publish(result, manifest()).folder
    (folder / MANIFEST).rename(folder / (".deleted-" + MANIFEST))
    assert store.list() == []
    open_store(f"file://{store.root}")
    assert not folder.exists()


def test_of_two_publishers_of_one_version_one_wins(store: FolderStore, result: Path) -> None:
    outcomes: list[str] = []

    def publish() -> None:
        try:
            store.publish(result, manifest(version="v1"))
            outcomes.append("published")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 3 + ["published"]
    assert not any((store.root / ".incoming").iterdir())


_PUBLISHER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from dreambooth_api.models.store import FolderStore
from test_models_store import manifest
store, result = FolderStore(Path(sys.argv[1])), Path(sys.argv[2])
while True:
    store.publish(result, manifest())
    print("published", flush=True)
"""


def test_a_publisher_that_is_killed_leaves_whole_versions_only(store: FolderStore, result: Path) -> None:
    for index in range(40):
        (result / f"part{index}.safetensors").write_bytes(os.urandom(20_000))
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", _PUBLISHER, str(store.root), str(result), here]
    for lines in (1, 2, 3):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
            assert publisher.stdout is not None
            for _ in range(lines):
                assert publisher.stdout.readline() == b"published\n"
            os.kill(publisher.pid, signal.SIGKILL)
    found = store.list()
    assert len(found) >= 6
    for each in found:
        with store.open(f"shoe@{each.version}") as artifact:
            for entry in artifact.manifest.files:
                content = (artifact.folder / entry.path).read_bytes()
                assert hashlib.sha256(content).hexdigest() == entry.sha256


@pytest.mark.parametrize("url", ["s3://bucket", "http://x/y", "", "file://host/x"])
def test_other_stores_than_folders_are_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidField, match="MODEL_STORE_URL"):
        open_store(url)
