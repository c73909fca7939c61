"""Pictures are plain diffusers' own, the same at any number, and no model leaves a trace in another's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from dreambooth_api.inference import parts
from dreambooth_api.inference.caller import Caller
from dreambooth_api.inference.denoising import rehearsal
from dreambooth_api.inference.engine import Engine, EngineLimits
from dreambooth_api.inference.lora import BadAdapter
from dreambooth_api.inference.picture import Drawn
from dreambooth_api.inference.request import DrawRequest, WeightedModel
from dreambooth_api.inference.schedulers import SAMPLERS
from dreambooth_api.models.artifact import LORA_WEIGHTS, Artifact
from dreambooth_api.models.bases import TINY, resolve_base
from dreambooth_api.models.store import ModelStore
from enlight_common.errors import InvalidField, TimedOut, UnknownModel, WrongBaseModel
from enlight_common.queue import Canceled
from PIL import Image
from service_parts import SAME, difference, photo, plain_pipeline, publish_adapter, publish_full

PROMPT = "a red shoe on the grass"
SHORT = DrawRequest(PROMPT, num_image=1, steps=3, guidance_scale=4.0, seed=11)


@pytest.fixture(scope="module")
def adapters(store: ModelStore) -> dict[str, Artifact]:
    return {
        "one": publish_adapter(store, "one", seed=1),
        "two": publish_adapter(store, "two", seed=2),
        "wordy": publish_adapter(store, "wordy", seed=3, text_encoder=True),
        "other-base": publish_adapter(store, "other-base", seed=4, base="another/base"),
    }


@pytest.fixture(scope="module")
def full(store: ModelStore) -> Artifact:
    return publish_full(store, "whole", seed=5)


def with_models(*models: tuple[str, float], **changes: Any) -> DrawRequest:
    chosen = tuple(WeightedModel(name, weight) for name, weight in models)
    return replace(SHORT, models=chosen, **changes)


def first(drawn: Drawn) -> Image.Image:
    return drawn.pictures[0].image


def plain_picture(pipeline: Any, **changes: Any) -> Image.Image:
    """The picture of ``SHORT`` by diffusers without any code of ours."""
    return pipeline(
        PROMPT,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(11),
        **changes,
    ).images[0]


def test_a_base_picture_is_plain_diffusers_own(engine: Engine) -> None:
    assert difference(first(engine.draw(SHORT)), plain_picture(plain_pipeline())) <= SAME


@pytest.mark.parametrize("name", ["one", "wordy"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_picture_with_an_adapter_is_plain_diffusers_own(
    engine: Engine, adapters: dict[str, Artifact], name: str, scale: float
) -> None:
    pipeline = plain_pipeline()
    pipeline.load_lora_weights(str(adapters[name].folder))
    expected = plain_picture(pipeline, cross_attention_kwargs={"scale": scale})
    drawn = first(engine.draw(with_models((name, 1.0), lora_scale=scale)))
    assert difference(drawn, expected) <= SAME
    assert difference(drawn, first(engine.draw(SHORT))) > 10 * SAME


def test_a_picture_with_several_adapters_is_plain_diffusers_own(
    engine: Engine, adapters: dict[str, Artifact]
) -> None:
    pipeline = plain_pipeline()
    for name in ("one", "wordy"):
        pipeline.load_lora_weights(str(adapters[name].folder), adapter_name=name)
    pipeline.set_adapters(["one", "wordy"], [0.7, 0.4])
    drawn = first(engine.draw(with_models(("one", 0.7), ("wordy", 0.4))))
    assert difference(drawn, plain_picture(pipeline)) <= SAME


def test_a_picture_of_a_full_fine_tune_is_plain_diffusers_own(engine: Engine, full: Artifact) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(full.folder))
    pipeline.set_progress_bar_config(disable=True)
    drawn = first(engine.draw(with_models(("whole", 1.0))))
    assert difference(drawn, plain_picture(pipeline)) <= SAME
    assert difference(drawn, first(engine.draw(SHORT))) > 10 * SAME


def test_no_model_leaves_a_trace_in_the_next_picture(
    engine: Engine, adapters: dict[str, Artifact], full: Artifact
) -> None:
    before = first(engine.draw(SHORT))
    alone = first(engine.draw(with_models(("one", 1.0))))
    for name in ("wordy", "whole", "two"):
        engine.draw(with_models((name, 1.0)))
        assert difference(first(engine.draw(SHORT)), before) == 0
        assert difference(first(engine.draw(with_models(("one", 1.0)))), alone) == 0


@pytest.fixture
def engine_with(engine: Engine, store: ModelStore) -> Iterator[Callable[..., Engine]]:
    """Makes engines of other limits."""
    made: list[Engine] = []

    def make(**limits: Any) -> Engine:
        made.append(Engine(engine.base, store, limits=EngineLimits(**limits)))
        made[-1].load()
        return made[-1]

    yield make
    for one in made:
        one.close()


def bytes_of(engine: Engine, *names: str) -> int:
    """What these take in memory, drawn with just now."""
    for name in names:
        engine.draw(with_models((name, 1.0)))
    return sum(size for key, size in engine.loaded.sizes.items() if key.model_id in names)


def test_an_adapter_is_dropped_when_too_many_are_loaded_and_comes_back_the_same(
    engine: Engine, engine_with: Callable[..., Engine], adapters: dict[str, Artifact]
) -> None:
    small = engine_with(max_loaded_bytes=2 * bytes_of(engine, "two", "wordy"))
    base_picture, picture = first(small.draw(SHORT)), first(small.draw(with_models(("one", 1.0))))
    small.draw(with_models(("two", 1.0)))
    small.draw(with_models(("wordy", 1.0)))
    assert [key.model_id for key in small.loaded.sizes] == ["two", "wordy"]
    assert difference(first(small.draw(SHORT)), base_picture) == 0
    assert difference(first(small.draw(with_models(("one", 1.0)))), picture) == 0
    assert (small.loaded.hits, small.loaded.misses, small.loaded.evictions) == (0, 4, 2)
    small.draw(with_models(("one", 1.0)))
    assert (small.loaded.hits, small.loaded.misses) == (1, 4)


def test_adapters_together_larger_than_allowed_are_dropped(
    engine: Engine, engine_with: Callable[..., Engine], adapters: dict[str, Artifact]
) -> None:
    both = with_models(("one", 1.0), ("two", 1.0))
    small = engine_with(max_loaded_bytes=2 * bytes_of(engine, "one"))
    assert difference(first(small.draw(both)), first(engine.draw(both))) <= SAME
    assert len(small.loaded.sizes) == 1, "a drawing that needs more than is kept gets it all the same"
    small.draw(with_models(("one", 1.0)))
    assert [key.model_id for key in small.loaded.sizes] == ["one"]


def test_a_new_version_is_drawn_by_its_id_and_the_old_one_by_its_version(
    engine: Engine, store: ModelStore
) -> None:
    old = publish_adapter(store, "renewed", seed=20)
    before = first(engine.draw(with_models(("renewed", 1.0))))
    publish_adapter(store, "renewed", seed=21)
    assert difference(first(engine.draw(with_models(("renewed", 1.0)))), before) > 10 * SAME
    pinned = f"renewed@{old.manifest.version}"
    assert difference(first(engine.draw(with_models((pinned, 1.0)))), before) == 0


CASES = {
    "text": {},
    "image": {"image": photo(), "strength": 0.7},
    "inpaint": {"image": photo(), "mask": Image.new("L", (96, 96), 255).rotate(45), "strength": 0.7},
    "inpaint all": {"image": photo(), "mask": Image.new("L", (96, 96), 255), "strength": 1.0},
}


@pytest.mark.parametrize("case", CASES)
def test_a_picture_is_the_same_alone_and_among_others(
    engine: Engine, engine_with: Callable[..., Engine], case: str
) -> None:
    request = replace(SHORT, **CASES[case], num_image=3)
    together, split = engine.draw(request), engine_with(max_batch=2).draw(request)
    assert [picture.seed for picture in together.pictures] == [11, 12, 13]
    for picture, other in zip(together.pictures, split.pictures, strict=True):
        alone = first(engine.draw(replace(request, num_image=1, seed=picture.seed)))
        assert difference(picture.image, alone) <= SAME
        assert difference(picture.image, other.image) <= SAME
    assert difference(together.pictures[0].image, together.pictures[1].image) > 10 * SAME


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_the_same_picture_among_others(engine: Engine, sampler: str) -> None:
    request = replace(SHORT, scheduler=sampler, num_image=2)
    pictures = engine.draw(request).pictures
    alone = first(engine.draw(replace(request, num_image=1, seed=12)))
    assert difference(pictures[1].image, alone) <= SAME


def test_a_sampler_by_its_class_name_is_diffusers_own(engine: Engine) -> None:
    from diffusers import EulerDiscreteScheduler

    pipeline = plain_pipeline()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    drawn = first(engine.draw(replace(SHORT, scheduler="EulerDiscreteScheduler")))
    assert difference(drawn, plain_picture(pipeline)) <= SAME


def test_an_adapter_of_another_base_is_refused(engine: Engine, adapters: dict[str, Artifact]) -> None:
    with pytest.raises(WrongBaseModel, match="another/base"):
        engine.prepare(with_models(("other-base", 1.0)))


def test_an_adapter_of_another_revision_of_the_base_is_refused(engine: Engine, store: ModelStore) -> None:
    publish_adapter(store, "outdated", seed=6, revision="0" * 40)
    with pytest.raises(WrongBaseModel, match="revision"):
        engine.prepare(with_models(("outdated", 1.0)))


def test_an_unknown_model_is_refused(engine: Engine) -> None:
    with pytest.raises(UnknownModel):
        engine.prepare(with_models(("nobody", 1.0)))


def test_a_full_fine_tune_is_not_mixed_with_others(
    engine: Engine, adapters: dict[str, Artifact], full: Artifact
) -> None:
    with pytest.raises(InvalidField, match="alone"):
        engine.prepare(with_models(("one", 1.0), ("whole", 1.0)))


def test_a_model_deleted_while_its_drawing_waits_is_drawn_and_gone_then(
    engine: Engine, store: ModelStore
) -> None:
    publish_adapter(store, "short-lived", seed=30)
    with engine.prepare(with_models(("short-lived", 1.0))) as prepared:
        (deleted,) = store.delete("short-lived")
        engine.loaded.forget(deleted)
        with pytest.raises(UnknownModel):
            engine.prepare(with_models(("short-lived", 1.0)))
        drawn = first(engine.draw(prepared))
    assert difference(drawn, first(engine.draw(SHORT))) > 10 * SAME
    assert not prepared.artifacts[0].folder.exists()


def test_a_damaged_file_is_not_loaded_but_fetched_again(engine: Engine, store: ModelStore) -> None:
    artifact = publish_adapter(store, "damaged", seed=31)
    small = Engine(engine.base, store)
    small.load()
    before = first(engine.draw(with_models(("damaged", 1.0))))
    weights = artifact.folder / LORA_WEIGHTS
    with small.prepare(with_models(("damaged", 1.0))) as prepared:
        looks, content = weights.stat(), bytearray(weights.read_bytes())
        content[-100] ^= 1  # and everything that a stat shows as it was
        weights.write_bytes(content)
        os.utime(weights, ns=(looks.st_atime_ns, looks.st_mtime_ns))
        assert difference(first(small.draw(prepared)), before) == 0
    assert store.cache.counts.damaged == 1


def test_a_drawing_stops_between_steps_and_leaves_the_engine_fit(
    engine: Engine, adapters: dict[str, Artifact]
) -> None:
    before = first(engine.draw(SHORT))
    steps: list[int] = []
    request = with_models(("one", 1.0), steps=20)
    stopping = Caller(stop=lambda: len(steps) == 2)
    with pytest.raises(Canceled):
        engine.draw(request, stopping, on_step=lambda done, _: steps.append(done))
    assert steps == [1, 2]
    assert difference(first(engine.draw(SHORT)), before) == 0


def test_what_a_prompt_loses_is_told(engine: Engine) -> None:
    # Each a token of its own: cut inside a word, what is kept would end in another token.
    words = ["striped", "red", "shoe"] * 40
    drawn = engine.draw(replace(SHORT, prompt=" ".join(words)))
    cut = drawn.truncated_prompt
    assert cut is not None
    assert " ".join(words).endswith(cut)
    kept = " ".join(words).removesuffix(cut)
    assert engine.draw(replace(SHORT, prompt=kept)).truncated_prompt is None
    assert difference(first(engine.draw(replace(SHORT, prompt=kept))), first(drawn)) <= SAME
    assert engine.draw(SHORT).truncated_prompt is None


def test_a_picture_from_a_picture_keeps_its_shape(engine: Engine) -> None:
    wide = photo(side=200).crop((0, 0, 200, 100))
    drawn = first(engine.draw(replace(SHORT, image=wide)))
    assert drawn.size == (176, 88), "twice as wide as high, of the trained area, in steps of 8"


def at_once(engine: Engine, requests: Sequence[DrawRequest], **options: Any) -> list[Drawn]:
    """What these come to, each drawn from a thread of its own."""
    drawn: dict[int, Drawn] = {}

    def draw(number: int) -> None:
        drawn[number] = engine.draw(requests[number], **options)

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [drawn[number] for number in range(len(requests))]


def test_many_people_draw_at_once_and_everyone_gets_the_own_picture(
    engine: Engine, adapters: dict[str, Artifact], full: Artifact
) -> None:
    requests = [
        SHORT,
        with_models(("one", 1.0)),
        with_models(("two", -1.0), seed=12),
        with_models(("one", 0.7), ("wordy", 0.4), scheduler="euler_a"),
        with_models(("one", 1.0), scheduler="unipc"),
        with_models(("whole", 1.0)),
        replace(SHORT, image=photo(), strength=0.7, scheduler="ddim"),
        replace(SHORT, image=photo(), mask=Image.new("L", (96, 96), 255).rotate(45), strength=0.7),
        with_models(("two", 1.0), guidance_scale=1.0, scheduler="lcm"),
        replace(SHORT, width=64, height=96),
    ]
    alone = [first(engine.draw(request)) for request in requests]
    for drawn, expected in zip(at_once(engine, requests), alone, strict=True):
        assert difference(first(drawn), expected) <= SAME


def test_where_memory_is_short_a_batch_of_many_adapters_is_drawn_all_the_same(
    engine: Engine, engine_with: Callable[..., Engine], adapters: dict[str, Artifact]
) -> None:
    short = engine_with(batch_memory_share=1e-9)
    requests = [with_models((name, 1.0), steps=8) for name in ("one", "two", "wordy")]
    for drawn, request in zip(at_once(short, requests), requests, strict=True):
        assert difference(first(drawn), first(engine.draw(request))) <= SAME


def test_an_engine_with_compiled_blocks_draws_the_same(
    engine: Engine,
    store: ModelStore,
    adapters: dict[str, Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Three kinds of batches of ten, and not the code generator: test_denoising_compiled.py has the others.
    monkeypatch.setattr(rehearsal, "KINDS", (*rehearsal.KINDS[:2], rehearsal.CONTROL))
    computed: list[object] = []

    def backend(graph: Callable[..., Any], _inputs: Any) -> Callable[..., Any]:
        def counted(*inputs: Any) -> Any:
            computed.append(graph)
            return graph(*inputs)

        return counted

    monkeypatch.setattr(parts, "compile_blocks", partial(parts.compile_blocks, backend=backend))
    told: list[str] = []
    compiled = Engine(resolve_base(TINY), store, compile_unet="on")
    try:
        compiled.load(lambda: told.append("compiling"))
        for request in (SHORT, with_models(("one", 1.0))):
            computed.clear()
            assert difference(first(compiled.draw(request)), first(engine.draw(request))) <= SAME
            assert len(computed) == 16 * SHORT.steps
        computed.clear()
        # What is of no kind that was compiled is drawn without.
        request = with_models(("one", 1.0), scheduler="unipc")
        assert difference(first(compiled.draw(request)), first(engine.draw(request))) <= SAME
        assert not computed
    finally:
        compiled.close()
        torch.compiler.set_stance("default")
        torch._dynamo.reset()
    assert told == ["compiling"]


def test_requests_that_arrive_together_share_their_steps(
    engine: Engine, adapters: dict[str, Artifact]
) -> None:
    before = replace(engine.counts)
    at_once(engine, [with_models((name, 1.0), steps=40, seed=1) for name in ("one", "two", "wordy") * 2])
    taken = engine.counts.picture_steps - before.picture_steps
    assert taken == 6 * 40
    assert engine.counts.batches - before.batches < 0.75 * taken


def test_a_drawing_past_its_deadline_is_given_up(engine: Engine) -> None:
    for sampler in ("ddim", "unipc"):
        with pytest.raises(TimedOut):
            engine.draw(replace(SHORT, steps=50, scheduler=sampler), Caller(deadline_s=0.05))
    assert engine.draw(SHORT, Caller(deadline_s=600)).device_seconds > 0


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({"scheduler": "heun"}, 6), ({"scheduler": "unipc"}, 6), ({"image": photo(), "strength": 0.5}, 3)],
)
@pytest.mark.parametrize("mask", [None, Image.new("L", (96, 96), 255)])
def test_progress_goes_evenly_to_the_last_step(
    engine: Engine, changes: dict[str, Any], steps: int, mask: Image.Image | None
) -> None:
    if mask is not None and "image" not in changes:
        changes = changes | {"image": photo(), "strength": 1.0}
    told: list[tuple[int, int]] = []
    request = replace(SHORT, steps=6, mask=mask, **changes)
    engine.draw(request, on_step=lambda done, all_: told.append((done, all_)))
    assert told[-1] == (steps, steps)
    for calls, (done, _) in enumerate(told, 1):
        assert abs(done / steps - calls / len(told)) < 0.34


def test_an_adapter_that_does_not_fit_is_refused_and_others_go_on(
    engine: Engine, engine_with: Callable[..., Engine], store: ModelStore
) -> None:
    artifact = publish_adapter(store, "unfit", seed=50)
    small = engine_with(max_rank=2)
    with pytest.raises(BadAdapter, match="rank"):
        small.draw(with_models(("unfit", 1.0)))
    assert difference(first(small.draw(SHORT)), first(engine.draw(SHORT))) <= SAME
    assert artifact.manifest.key not in small.loaded.sizes
