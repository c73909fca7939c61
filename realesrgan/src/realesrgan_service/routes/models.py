"""``GET /models``: which upscalers there are."""

from __future__ import annotations

from enlight_common.web import documented
from flask import Blueprint, Response, jsonify

from realesrgan_service.models.catalog import ALIASES
from realesrgan_service.routes.context import context
from realesrgan_service.schemas.upsampler import ListedModel, ModelList

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
@documented("List the upscalers", answers={200: ModelList}, tags=["models"])
def list_models() -> Response:
    """What may be asked for as `model_name`: every file in the models folder, and what is fetched on first
    use.
    """
    service = context().service
    networks = service.networks
    models = []
    for file in service.catalog.files():
        network = networks.get(file.name)
        models.append(
            ListedModel(
                name=file.name,
                aliases=_aliases(file.name),
                here=True,
                bytes=file.bytes,
                format=file.path.suffix[1:],
                loaded=network is not None,
                scale=network.scale if network else None,
                precision=network.precision if network else None,
                engine=network.engine if network else None,
            )
        )
    models += [
        ListedModel(name=name, aliases=_aliases(name), here=False) for name in service.catalog.fetchable()
    ]
    return jsonify(ModelList(default=service.settings.model, models=models).model_dump())


def _aliases(name: str) -> list[str]:
    return sorted(alias for alias, known in ALIASES.items() if known == name)
