"""The API's document, assembled from what stands at the view functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask, current_app, jsonify
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from enlight_common.ids import ID_PATTERN

# A model is a JSON answer, a string its media type ("text/event-stream", "image/png"), None no body.
Answer = type[BaseModel] | str | None
View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "enlight_operation"
_SECURITY = "enlight_security"
_EXTENSION = "enlight.openapi"
_REFERENCE = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"<(?:(?P<converter>[a-z]+)(?:\([^)]*\))?:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)>")
_CONVERTED: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "uuid": {"type": "string", "format": "uuid"},
}


@dataclass(frozen=True)
class ServiceInfo:
    """What the API's document says about the service."""

    title: str
    version: str = "0.1.0"
    description: str = ""
    #: OpenAPI's security schemes by the names that `secured` uses.
    security_schemes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Problem(BaseModel):
    """What every error is answered with (RFC 9457), as `application/problem+json`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    message: str
    instance: str
    request_id: str | None
    field: str | None = None


@dataclass(frozen=True)
class Operation:
    """What `documented` keeps at a view function."""

    summary: str
    body: type[BaseModel] | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)
    tags: Sequence[str] = ()
    description: str = ""
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    other_bodies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def documented(
    summary: str,
    *,
    body: type[BaseModel] | None = None,
    answers: Mapping[int, Answer] | None = None,
    tags: Sequence[str] = (),
    query: type[BaseModel] | None = None,
    headers: Mapping[str, str] | None = None,
    other_bodies: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[View], View]:
    """Put a view function into `/openapi.json`. Its docstring becomes the description.

    `answers` without a 4xx are completed by the problem document as the default answer. `query` is what
    `parse_query` is given, `headers` are optional request headers with what each does, and `other_bodies`
    the schemas of bodies that are taken instead of JSON, by media type.
    """

    def mark(view: View) -> View:
        operation = Operation(
            summary,
            body,
            answers or {200: None},
            tags,
            (view.__doc__ or "").strip(),
            query,
            headers or {},
            other_bodies or {},
        )
        setattr(view, _ATTRIBUTE, operation)
        return view

    return mark


def secured(view: View, *schemes: str) -> View:
    """Note at a view function which of the security schemes it asks for."""
    setattr(view, _SECURITY, schemes)
    return view


def document_of(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the documented views of `app`."""
    info: ServiceInfo = app.extensions[_EXTENSION]
    found = list(_operations(app))
    asked: set[type[BaseModel]] = {operation.body for _, operation in found if operation.body is not None}
    answered: set[type[BaseModel]] = {
        answer
        for _, operation in found
        for answer in operation.answers.values()
        if isinstance(answer, type) and issubclass(answer, BaseModel)
    }
    answered.add(Problem)
    inputs: list[Any] = [(model, "validation") for model in sorted(asked, key=_name)]
    outputs: list[Any] = [(model, "serialization") for model in sorted(answered, key=_name)]
    references, definitions = models_json_schema([*inputs, *outputs], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for rule, operation in found:
        path, parameters = _path(rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            described = _describe(operation, references)
            described["operationId"] = f"{method.lower()}_{rule.endpoint.replace('.', '_')}"
            if all_parameters := [*parameters, *_parameters(operation)]:
                described["parameters"] = all_parameters
            if schemes := getattr(app.view_functions[rule.endpoint], _SECURITY, ()):
                described["security"] = [{scheme: []} for scheme in schemes]
            paths.setdefault(path, {})[method.lower()] = described
    components: dict[str, Any] = {"schemas": definitions.get("$defs", {})}
    if info.security_schemes:
        components["securitySchemes"] = {name: dict(one) for name, one in info.security_schemes.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": info.title, "version": info.version, "description": info.description},
        "paths": paths,
        "components": components,
    }


def _operations(app: Flask) -> list[tuple[Rule, Operation]]:
    found = []
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        operation = getattr(app.view_functions[rule.endpoint], _ATTRIBUTE, None)
        if isinstance(operation, Operation):
            found.append((rule, operation))
    return found


def _name(model: type[BaseModel]) -> str:
    return f"{model.__name__} {model.__module__}"


def _path(rule: Rule) -> tuple[str, list[dict[str, Any]]]:
    parameters = [
        {
            "name": match["name"],
            "in": "path",
            "required": True,
            "schema": _CONVERTED.get(
                match["converter"] or "", {"type": "string", "pattern": f"^{ID_PATTERN}$"}
            ),
        }
        for match in _PARAMETER.finditer(rule.rule)
    ]
    return _PARAMETER.sub(lambda match: "{" + match["name"] + "}", rule.rule), parameters


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in operation.headers.items()
    ]
    if operation.query is not None:
        schema = operation.query.model_json_schema()
        required = schema.get("required", [])
        for name, one in schema.get("properties", {}).items():
            described = {"name": name, "in": "query", "required": name in required, "schema": one}
            if "description" in one:
                described["description"] = one.pop("description")
            found.append(described)
    return found


def _describe(operation: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    problem = {
        "description": "What went wrong (RFC 9457)",
        "content": {"application/problem+json": {"schema": references[(Problem, "serialization")]}},
    }
    answers: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        if isinstance(answer, type) and issubclass(answer, Problem):
            schema = references[(answer, "serialization")]
            content = {"application/problem+json": {"schema": schema}}
            answers[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
            continue
        described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if isinstance(answer, str):
            described["content"] = {answer: {"schema": {"type": "string"}}}
        elif answer is not None:
            described["content"] = {"application/json": {"schema": references[(answer, "serialization")]}}
        answers[str(status)] = described
    answers["default"] = problem
    result: dict[str, Any] = {"summary": operation.summary, "responses": answers}
    if operation.description:
        result["description"] = operation.description
    if operation.tags:
        result["tags"] = list(operation.tags)
    if operation.body is not None:
        schema = references[(operation.body, "validation")]
        content = {"application/json": {"schema": schema}}
        content |= {kind: {"schema": dict(other)} for kind, other in operation.other_bodies.items()}
        result["requestBody"] = {"required": True, "content": content}
    return result


def install(app: Flask, info: ServiceInfo) -> None:
    """Serve the document of `app` at `/openapi.json`."""
    app.extensions[_EXTENSION] = info
    app.add_url_rule("/openapi.json", "openapi", lambda: jsonify(document_of(current_app)))
