"""A byte-level CLIP tokenizer with merges learned from captions.

CLIP's vocabulary is the 256 bytes, the same bytes at the end of a word, the merges, and two special
tokens. Any text can be written in it; a word from the captions is one token, an unknown one is its
bytes and whatever merges happen to fit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
WORD_END = "</w>"


def bytes_to_unicode() -> dict[int, str]:
    """The printable character that GPT-2's byte-level tokenizers write for each byte."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return dict(sorted(table.items()))


def learn_merges(captions: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each word of the captions one token, most frequent pairs first."""
    counts = Counter(word for caption in captions for word in caption.lower().split())
    words = {word: [*word[:-1], word[-1] + WORD_END] for word in counts}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {word: _merge(symbols, best) for word, symbols in words.items()}


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def build_tokenizer(merges: list[tuple[str, str]], folder: Path) -> CLIPTokenizer:
    """Writes ``vocab.json`` and ``merges.txt`` into ``folder`` and loads a tokenizer from them."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = list(bytes_to_unicode().values())
    tokens = [
        *alphabet,
        *(character + WORD_END for character in alphabet),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
