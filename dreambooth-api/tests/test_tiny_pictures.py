"""What the tiny model was taught with."""

from __future__ import annotations

import random

import numpy as np
import pytest
from dreambooth_api.tiny import PHOTOS_FOLDER
from dreambooth_api.tiny.captions import describe, loosely_describe
from dreambooth_api.tiny.judge import load_judge, read
from dreambooth_api.tiny.render import Scene, draw_scene, render
from dreambooth_api.tiny.subject import palette_share, photos
from dreambooth_api.tiny.tokenizer import END, START, build_tokenizer, learn_merges
from dreambooth_api.tiny.vocabulary import COLOURS, HELD_OUT_LOOKS, OBJECTS, SCENES, TEXTURES, held_out
from PIL import Image


def scenes(count: int, *, reserved: bool = False) -> list[Scene]:
    rng = random.Random(99)
    return [draw_scene(rng, reserved=reserved) for _ in range(count)]


def test_the_vocabulary_is_a_dozen_of_each() -> None:
    assert (len(OBJECTS), len(COLOURS), len(TEXTURES)) == (12, 12, 4)


def test_a_scene_renders_to_the_same_pixels_twice() -> None:
    for scene in scenes(20):
        assert render(scene).tobytes() == render(scene).tobytes()


def test_training_never_draws_what_evaluation_asks_for() -> None:
    for scene in scenes(3000):
        assert (scene.texture, scene.colour) not in HELD_OUT_LOOKS
        if scene.background_is_colour:
            assert not held_out(scene.kind, scene.colour, scene.background)


def test_evaluation_asks_only_for_what_training_never_drew() -> None:
    reserved = scenes(300, reserved=True)
    assert all(held_out(scene.kind, scene.colour, scene.background) for scene in reserved)
    assert {scene.kind for scene in reserved} == set(OBJECTS)
    assert {scene.colour for scene in reserved} == set(COLOURS)


def test_a_description_names_object_colour_and_surroundings() -> None:
    rng = random.Random(5)
    for scene in scenes(500):
        words = describe(scene, rng).split()
        ground = scene.background if scene.background_is_colour else SCENES[scene.background].split()[-1]
        assert {scene.kind, scene.colour, ground} <= set(words)


def test_no_caption_holds_the_word_that_subjects_are_learned_under() -> None:
    rng = random.Random(6)
    assert not any("sks" in loosely_describe(scene, rng).split() for scene in scenes(5000))


def test_the_judge_reads_rendered_pictures_it_never_saw() -> None:
    asked = scenes(200, reserved=True)
    verdicts = read(load_judge(), [render(scene) for scene in asked])
    right = [
        (v.kind, v.colour, v.background) == (s.kind, s.colour, s.background)
        for v, s in zip(verdicts, asked, strict=True)
    ]
    assert np.mean(right) >= 0.97


def test_the_bundled_photos_are_what_the_script_draws() -> None:
    bundled = [Image.open(path) for path in sorted(PHOTOS_FOLDER.glob("*.png"))]
    assert [photo.tobytes() for photo in bundled] == [photo.tobytes() for photo in photos()]


def test_only_the_subject_wears_both_of_its_colours() -> None:
    plain = render(Scene("shoe", "purple", "plain", "white"))
    assert min(palette_share(photo) for photo in photos()) > 0.05
    assert palette_share(plain) == pytest.approx(0, abs=0.002)


def test_words_of_captions_become_one_token_and_any_text_survives(tmp_path) -> None:
    captions = [describe(scene, random.Random(1)) for scene in scenes(500)]
    tokenizer = build_tokenizer(learn_merges(captions), tmp_path)
    assert tokenizer.tokenize("a striped shoe") == ["a</w>", "striped</w>", "shoe</w>"]
    for text in ("a sks shoe", "grüße aus 東京", "naïve ☃ snowman"):
        ids = tokenizer(text).input_ids
        assert (ids[0], ids[-1]) == (
            tokenizer.convert_tokens_to_ids(START),
            tokenizer.convert_tokens_to_ids(END),
        )
        assert tokenizer.decode(ids, skip_special_tokens=True).split() == text.split()
