"""Models and versions in Replicate's shape, and which model a reference of its client means."""

from __future__ import annotations

from typing import Any

from enlight_common.errors import InvalidField, UnknownModel
from enlight_common.ids import check_id

from main_api.clock import rfc3339
from main_api.facades.replicate.shapes import version_id
from main_api.schemas.generations import GenerationBody
from main_api.service import Service

#: What `cog_version` has to hold: no version of Cog made these.
_NO_COG = "0"
_EPOCH = "2026-01-01T00:00:00.000Z"


class ReplicateModels:
    """The tenant's models, owned by the tenant's name, and the base model."""

    def __init__(self, service: Service, tenant: str) -> None:
        self._service = service
        self._tenant = tenant
        self._base = service.settings.base_model

    @property
    def base_version(self) -> str:
        """The base model's only version: its name, without the slash that no address could hold."""
        return self._base.replace("/", "--")

    def drawn_with(self, owner: str, name: str) -> tuple[str | None, str]:
        """The `model_id` of a generation with this model (None: the base model), and its version.

        Raises UnknownModel.
        """
        if f"{owner}/{name}" == self._base:
            return None, self.base_version
        versions = self._trained(owner, name)["versions"]
        return name, version_id(name, versions[-1]["version"])

    def of_version(self, version: str) -> tuple[str | None, str]:
        """The `model_id` that a version stands for, and `<owner>/<name>`. Raises UnknownModel.

        A version may come with its model before it: `<owner>/<name>:<version>`, or be left out.
        """
        owner, _, rest = version.rpartition("/")
        if version == self._base or version.rpartition(":")[2] == self.base_version:
            return None, self._base
        named = rest.rpartition(":")[2]
        model_id, _, number = named.partition("@")
        found = self._trained(owner or self._tenant, model_id)
        if number and number not in [one["version"] for one in found["versions"]]:
            raise UnknownModel("the model has no such version")
        return named, f"{self._tenant}/{model_id}"

    def base_named(self, owner: str, name: str, version: str) -> str:
        """The base model that a training begins with. Raises UnknownModel."""
        if f"{owner}/{name}" != self._base or version not in (self.base_version, "latest"):
            raise UnknownModel("trainings begin with a version of the base model")
        return self._base

    def check_owner(self, owner: str, field: str) -> None:
        """Raises InvalidField for a model that would not be the tenant's."""
        if owner != self._tenant:
            raise InvalidField(field, "must be a model of the key's tenant")

    def _trained(self, owner: str, name: str) -> dict[str, Any]:
        if owner != self._tenant:
            raise UnknownModel("there is no model of this name")
        return self._service.catalog.get(self._tenant, check_id(name, "model"))

    # -- shapes

    def shown_model(self, owner: str, name: str) -> dict[str, Any]:
        """Raises UnknownModel."""
        if f"{owner}/{name}" == self._base:
            return self.shape(
                owner, name, f"The base model {self._base}", self.shown_version(owner, name, None)
            )
        found = self._trained(owner, name)
        return self.of_record(found)

    def of_record(self, record: dict[str, Any]) -> dict[str, Any]:
        """The model behind a record."""
        latest = _version(record["model_id"], record["versions"][-1]) if record["versions"] else None
        return self.shape(self._tenant, record["model_id"], record["instance_prompt"], latest)

    def shape(
        self, owner: str, name: str, description: str | None, latest: dict[str, Any] | None
    ) -> dict[str, Any]:
        """A model."""
        return {
            "url": f"{self._service.settings.public_url.rstrip('/')}/models/{name}",
            "owner": owner,
            "name": name,
            "description": description,
            "visibility": "private" if owner == self._tenant else "public",
            "github_url": None,
            "paper_url": None,
            "license_url": None,
            "run_count": 0,
            "cover_image_url": None,
            "default_example": None,
            "latest_version": latest,
        }

    def versions(self, owner: str, name: str) -> list[dict[str, Any]]:
        """Newest first. Raises UnknownModel."""
        if f"{owner}/{name}" == self._base:
            return [self.shown_version(owner, name, None)]
        return [_version(name, one) for one in reversed(self._trained(owner, name)["versions"])]

    def shown_version(self, owner: str, name: str, version: str | None) -> dict[str, Any]:
        """Raises UnknownModel."""
        if f"{owner}/{name}" == self._base and version in (None, self.base_version, "latest"):
            return _shape(self.base_version, _EPOCH)
        for one in self._trained(owner, name)["versions"]:
            if version in (one["version"], version_id(name, one["version"])):
                return _version(name, one)
        raise UnknownModel("the model has no such version")


def _version(model_id: str, version: dict[str, Any]) -> dict[str, Any]:
    return _shape(version_id(model_id, version["version"]), rfc3339(version["created_at"]) or _EPOCH)


def _shape(name: str, created_at: str) -> dict[str, Any]:
    output = {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}
    schemas = {"Input": GenerationBody.model_json_schema(), "Output": output}
    return {
        "id": name,
        "created_at": created_at,
        "cog_version": _NO_COG,
        "openapi_schema": {"openapi": "3.1.0", "components": {"schemas": schemas}},
    }
