"""The object store's side of the model store: whole versions or none."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from dreambooth_api.models.artifact import MANIFEST, Manifest, ModelKey, new_version
from dreambooth_api.models.catalog import Catalog
from enlight_common.errors import Conflict, InvalidField, StoreCorrupt, UnknownModel
from enlight_common.storage import open_object_store
from models_parts import OtherProcess, manifest, result, store_at


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(open_object_store((tmp_path / "objects").as_uri()))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return result(tmp_path / "result", size=1000)


def files_of(tmp_path: Path) -> list[str]:
    root = tmp_path / "objects" / "models"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_was_published_is_listed_with_its_files_and_checksums(catalog: Catalog, made: Path) -> None:
    published = catalog.publish(made, manifest())
    assert catalog.list("default") == [published]
    assert catalog.manifest(published.key) == (published, published.to_bytes())
    assert {file.path: (file.size, file.sha256) for file in published.files} == {
        path: ((made / path).stat().st_size, hashlib.sha256((made / path).read_bytes()).hexdigest())
        for path in ("model.safetensors", "unet/config.json")
    }


def test_versions_come_newest_first_and_tenants_apart(catalog: Catalog, made: Path) -> None:
    versions = [catalog.publish(made, manifest()).version for _ in range(3)]
    catalog.publish(made, manifest(tenant="ada"))
    assert versions == sorted(versions)
    assert catalog.versions("default", "shoe") == versions[::-1]
    assert [found.version for found in catalog.list("default")] == versions[::-1]
    assert len(catalog.list("ada")) == 1
    assert catalog.versions("default", "sho") == []


def test_a_version_is_published_once(catalog: Catalog, made: Path) -> None:
    catalog.publish(made, manifest(version="v1"))
    with pytest.raises(Conflict):
        catalog.publish(made, manifest(version="v1"))


def test_without_its_manifest_a_model_does_not_exist(catalog: Catalog, made: Path, tmp_path: Path) -> None:
    published = catalog.publish(made, manifest())
    catalog.objects.delete(f"models/default/shoe/{published.version}/{MANIFEST}")
    assert Catalog(catalog.objects).list("default") == []
    with pytest.raises(UnknownModel):
        catalog.manifest(published.key)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 2}'])
def test_a_manifest_that_cannot_be_read_is_none(catalog: Catalog, content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "objects" / "models" / "default" / "shoe" / "v1"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(content)
    assert catalog.list("default") == []
    with pytest.raises(StoreCorrupt):
        catalog.manifest(ModelKey("default", "shoe", "v1"))


def test_a_manifest_under_anothers_name_is_none(catalog: Catalog, made: Path, tmp_path: Path) -> None:
    catalog.publish(made, manifest(version="v1"))
    (tmp_path / "objects/models/default/shoe/v1").rename(tmp_path / "objects/models/default/shoe/v2")
    assert catalog.list("default") == []


@pytest.mark.parametrize("name", ["weights.bin", "pickle.pkl", "model.ckpt", "run.py", "model.pt"])
def test_only_safetensors_and_texts_are_kept(catalog: Catalog, made: Path, name: str) -> None:
    (made / name).write_bytes(b"?")
    with pytest.raises(InvalidField):
        catalog.publish(made, manifest())
    assert catalog.list("default") == []


def test_links_are_not_published(catalog: Catalog, made: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (made / "link.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidField, match="link"):
        catalog.publish(made, manifest())


@pytest.mark.parametrize("name", ["../shoe", "/etc/passwd", "", ".hidden", "a/b", "a\0b", "x" * 65, "é"])
def test_ids_that_could_leave_the_store_are_refused(catalog: Catalog, made: Path, name: str) -> None:
    with pytest.raises(InvalidField):
        catalog.versions("default", name)
    with pytest.raises(InvalidField):
        catalog.list(name)
    with pytest.raises(InvalidField):
        catalog.publish(made, manifest(name))


def test_deleting_leaves_nothing(catalog: Catalog, made: Path, tmp_path: Path) -> None:
    published = catalog.publish(made, manifest())
    catalog.delete(published.key)
    assert catalog.list("default") == []
    assert files_of(tmp_path) == []


def test_what_a_killed_upload_left_is_not_listed_is_finished_by_another_and_swept_up(
    catalog: Catalog, tmp_path: Path
) -> None:
    size = 40_000_000
    for attempt in range(6):
        uploader = OtherProcess(tmp_path)
        uploader.ask("counts")  # it is up
        uploader.tell("publish", model_id="shoe", size=size, seed=1, version="v1")
        time.sleep(0.01 * attempt)
        uploader.kill()
        for listed in Catalog(catalog.objects).list("default"):
            assert (tmp_path / "objects/models/default/shoe/v1/model.safetensors").stat().st_size == size
            catalog.delete(listed.key)
    folder = tmp_path / "objects" / "models" / "default" / "shoe" / "v1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"left")
    assert catalog.list("default") == []
    again = catalog.publish(result(tmp_path / "again"), manifest(version="v1"))
    with store_at(tmp_path).open("shoe") as artifact:
        assert artifact.manifest == again
    assert catalog.list("default") == [again]


def test_what_uploads_left_is_swept_up_when_it_is_old_and_what_is_not_ours_never(
    catalog: Catalog, made: Path, tmp_path: Path
) -> None:
    published = catalog.publish(made, manifest())
    root = tmp_path / "objects" / "models"
    left = root / "default" / "shoe" / new_version() / "model.safetensors"
    foreign = ["README.md", "sd15/weights.ckpt", "team/a/b/c.bin", f"team/a/{new_version()[:-1]}x/c.bin"]
    for path in (left, *(root / name for name in foreign)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
        if path != left:
            os.utime(path, (0, 0))
    os.utime(root / "default" / "shoe" / published.version / "model.safetensors", (0, 0))
    assert catalog.sweep() == 0, "somebody may be at it"
    os.utime(left, (0, 0))
    assert catalog.sweep() == 1
    assert not left.exists()
    assert set(foreign) <= set(files_of(tmp_path))
    assert catalog.list("default") == [published]


def test_a_manifest_is_read_from_the_store_once(catalog: Catalog, made: Path, tmp_path: Path) -> None:
    published = catalog.publish(made, manifest())
    assert catalog.list("default") == [published]
    path = tmp_path / "objects/models/default/shoe" / published.version / MANIFEST
    changed = json.loads(path.read_text()) | {"instance_prompt": "another"}
    path.write_text(json.dumps(changed))
    assert catalog.list("default") == [published]
    assert Catalog(catalog.objects).list("default") == [Manifest.model_validate(changed)]
