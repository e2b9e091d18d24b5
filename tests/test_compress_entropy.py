"""The step that writes a model's weights in few bytes, and the model that comes back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import entropy_file
from converters.compress.context import CLUSTERS, ZEROS, Context
from converters.errors import ConversionInputError, RefusedError

pytestmark = [
    pytest.mark.compression,
    # Keras's own saving does what numpy 2 frowns upon.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def context(folder: Path) -> Context:
    folder.mkdir()
    kinds = frozenset({ZEROS, CLUSTERS})
    return Context(None, None, lambda: None, folder, seed=1, preserve=kinds, say=lambda _: None)  # type: ignore[arg-type]


def hard_model() -> Any:
    """Shared, nested, recurrent, attending, two inputs and two outputs, batch norm and dropout."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    tokens, signal = keras.Input((6,), dtype="int32"), keras.Input((6, 4))
    shared = layers.Dense(4, name="shared")
    inner = keras.Input((6, 4))
    normed = layers.BatchNormalization()(layers.Conv1D(4, 3, padding="same", name="conv")(inner))
    nested = keras.Model(inner, layers.Dense(4, name="shared")(normed), name="nested")
    x = shared(layers.Embedding(50, 4, name="table")(tokens)) + shared(nested(signal))
    x = layers.Dropout(0.3)(layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(x)
    return keras.Model([tokens, signal], [layers.Dense(2, name="a")(x), layers.GRU(3, name="b")(x)])


def test_a_hard_model_is_written_and_made_again(tmp_path: Path) -> None:
    import keras

    from converters.compress.entropy import ARCHITECTURE, WEIGHTS, apply, rebuild, weights_by_name

    model = hard_model()
    for variable in model.trainable_variables[::2]:
        values = np.asarray(variable).copy()
        variable.assign(np.where(np.abs(values) < 0.2, 0, np.round(values * 4) / 4))
    result = apply(model, {}, context(tmp_path / "step"))
    keep = tmp_path / "step" / "keep"
    assert result.files == (WEIGHTS, ARCHITECTURE)
    assert result.model is model
    assert result.preserve == {ZEROS, CLUSTERS}
    figures = result.figures
    assert figures["size_entropy_bytes"] == (keep / WEIGHTS).stat().st_size
    assert figures["weights_bytes"] == 4 * model.count_params()
    assert figures["ratio"] == figures["weights_bytes"] / figures["size_entropy_bytes"] > 1
    assert {row["name"] for row in figures["tensors"]} == set(weights_by_name(model))
    rebuild(keep / WEIGHTS, keep / ARCHITECTURE, tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras", compile=False)
    assert again.count_params() == model.count_params()
    feed = [np.arange(12).reshape(2, 6), np.ones((2, 6, 4), np.float32)]
    for a, b in zip(model.predict(feed, verbose=0), again.predict(feed, verbose=0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_that_keras_cannot_make_again_is_refused(tmp_path: Path) -> None:
    import keras
    from keras import layers

    from converters.compress.entropy import apply

    i = keras.Input((4,))
    code = keras.Model(i, layers.Dense(2)(layers.Lambda(lambda x: x + 1)(i)))
    with pytest.raises(RefusedError, match="of its own architecture"):
        apply(code, {}, context(tmp_path / "step"))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    import keras
    from keras import layers

    from converters.compress.entropy import ARCHITECTURE, WEIGHTS, apply, rebuild

    def dense(units: int) -> Any:
        i = keras.Input((5,))
        return keras.Model(i, layers.Dense(units)(i))

    for units in (3, 7):
        apply(dense(units), {}, context(tmp_path / str(units)))
    small, large = tmp_path / "3" / "keep", tmp_path / "7" / "keep"
    with pytest.raises(ConversionInputError, match="more bytes than allowed"):
        rebuild(large / WEIGHTS, small / ARCHITECTURE, tmp_path / "x.keras")
    with pytest.raises(ConversionInputError, match="are not those of"):
        rebuild(small / WEIGHTS, large / ARCHITECTURE, tmp_path / "x.keras")
    i = keras.Input((4,))
    code = keras.Model(i, layers.Lambda(lambda x: x + 1)(i)).to_json()
    for evil in (
        '{"class_name": "os.system", "config": {}}',
        "[]",
        '{"module": "os", "class_name": "system"}',
        "{",
        code,
    ):
        (small / ARCHITECTURE).write_text(evil)
        with pytest.raises(ConversionInputError, match="Keras cannot build it"):
            rebuild(small / WEIGHTS, small / ARCHITECTURE, tmp_path / "x.keras")
    assert not (tmp_path / "x.keras").exists()


def test_a_million_weights_decode_in_two_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    book = rng.normal(size=32).astype(np.float32)
    arrays = {
        "dense": book[rng.integers(0, 32, (700, 1000))],
        "sparse": np.where(rng.random((300, 1000)) < 0.1, book[rng.integers(0, 32, (300, 1000))], 0),
        **{f"small{k}": book[rng.integers(0, 32, 500)] for k in range(40)},
    }
    entropy_file.write(tmp_path / "w.huf", arrays)
    began = time.process_time()
    found = entropy_file.read(tmp_path / "w.huf")
    # Of this processor's time: others may be at work here too.
    assert time.process_time() - began < 2
    assert sum(array.size for array in found.values()) == 1_020_000


def test_a_dtype_without_a_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from converters.compress import entropy

    i = keras.Input((4,))
    monkeypatch.setattr(entropy, "weights_by_name", lambda _: {"w": np.zeros(3, np.complex64)})
    with pytest.raises(RefusedError, match="complex64"):
        entropy.apply(keras.Model(i, keras.layers.ReLU()(i)), {}, context(tmp_path / "step"))
