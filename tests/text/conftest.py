"""The tiny encoder and tokenizer of the reference pipeline, and what torch made with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.text import PromptEncoder, T5Encoder, load_tokenizer
from latte_ms.weights.pretrained import load_text_encoder


@pytest.fixture(scope="session")
def encoder_folder(reference: Path) -> Path:
    return reference / "t2v" / "text_encoder"


@pytest.fixture(scope="session")
def torch_arrays(reference: Path) -> dict[str, np.ndarray]:
    """prompts -> ids, mask, embeddings; after_* and before_* are rows of relative positions."""
    with np.load(reference / "text" / "io.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def tokenizer(reference: Path) -> Any:
    return load_tokenizer(reference / "t2v" / "tokenizer")


@pytest.fixture(scope="session")
def network(encoder_folder: Path) -> T5Encoder:
    """One for all tests, so that its graph is compiled once."""
    return load_text_encoder(encoder_folder)


@pytest.fixture
def text_encoder(tokenizer: Any, network: T5Encoder) -> PromptEncoder:
    return PromptEncoder(tokenizer, network)
