"""The one training loop of all compression steps: seeded, stopped by the validation rows, resumable after a kill.

`fit` is what a step gets as `context.fit`. Adam with cosine decay (Kingma and Ba, arXiv:1412.6980; Loshchilov and Hutter,
arXiv:1608.03983) runs in a compiled TensorFlow step, under any Keras dtype policy; float16 trains with a dynamic loss scale
(Micikevicius et al., arXiv:1710.03740). The same seed gives the same bytes on the same machine, and so does a training that
was killed and begun again: the order of rows follows from seed and epoch, everything else is in the checkpoint.
"""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.compress import checkpoint
from converters.compress.checkpoint import Progress
from converters.compress.context import Array, Context, History, TrainingData
from converters.compress.objective import (
    Predictor,
    every_layer,
    fixed_batch,
    flat_view,
    score,
    score_of,
    task_loss,
)
from converters.errors import ToolError

__all__ = ["fit", "score"]

BATCH_ROWS = 64
LEAST_BATCH_ROWS = 8
STEPS_WANTED = 16  # per epoch: few rows are cut into smaller batches
LEARNING_RATE = 5e-4
# Epochs without a better score before the training stops.
PATIENCE_EPOCHS, PATIENCE_SHARE = 3, 0.2
CHECKPOINT = "checkpoint.npz"
_MODEL, _OPTIMIZER, _BEST = "model", "optimizer", "best"
# Under a loss scale single steps overflow, by design; a training in which most of them do has diverged.
OVERFLOW_SHARE = 0.5
Loss = Callable[[Any, Any, Any], Any]


def fit(
    model: Any,
    context: Context,
    *,
    epochs: int,
    learning_rate: float | None = None,
    loss: Loss | None = None,
    after_batch: Callable[[int, int], None] | None = None,
    extra_variables: tuple[Any, ...] = (),
    label: str = "train",
) -> History:
    """Train `model` in place on `context.data.train`; see `context.Fit`.

    `loss(inputs, labels, outputs)` is traced: `inputs` and `outputs` are tuples of tensors in the order of the model's
    (outputs in float32), `labels` a tensor, or None where the data have none; regularization losses of the layers are added.
    Without `loss`, the labels are the first output's, and further outputs are held to what the base answers. `learning_rate`
    is the first one, 5e-4 by default, and falls to zero along a cosine. `after_batch(step, of_steps)` (1 ≤ step ≤ of_steps)
    runs after what `context.preserve` asks for; on resuming it is called once with the last step done, so that it can read
    its state from the weights again.

    The weights of the epoch with the best validation score are kept, and the training stops early when the score does not
    rise; with `after_batch`, whose schedule must run to its end, neither. Scores are those of `score`; without labels, minus the
    loss. Raises ToolError when there are no rows, labels do not fit, or the loss is no longer finite.
    """
    data = context.needs_data("training")
    if data.train.count == 0:
        raise ToolError("there are no rows to train on", remedy="add x_train to the data")
    return _Training(model, context, data, epochs, learning_rate, loss, after_batch, extra_variables, label).run()


class _Training:
    """One training: its compiled step, its state, and the loop over epochs."""

    def __init__(
        self,
        model: Any,
        context: Context,
        data: TrainingData,
        epochs: int,
        learning_rate: float | None,
        loss: Loss | None,
        after_batch: Callable[[int, int], None] | None,
        extra_variables: tuple[Any, ...],
        label: str,
    ) -> None:
        self._context, self._data, self._epochs, self._label = context, data, epochs, label
        self._after_batch = after_batch
        self._batch = fixed_batch(model) or _batch_rows(data.train.count)
        self._steps = data.train.count // self._batch
        if self._steps == 0:
            raise ToolError(f"the model takes {self._batch} rows at once, and there are {data.train.count} to train on")
        rate = LEARNING_RATE if learning_rate is None else learning_rate
        _seed_everything(model, context.seed, label)
        self._project = _projection(model, context)
        self._variables = [*model.variables, *extra_variables]
        self._trainable = [*model.trainable_variables, *extra_variables]
        if not self._trainable:
            raise ToolError("the model has no weights that may be trained")
        self._view, self._dtypes = flat_view(model), [tensor.dtype for tensor in model.inputs]
        self._predict = Predictor(model)
        self._halves = any(getattr(layer, "compute_dtype", None) == "float16" for layer in every_layer(model))
        self._optimizer = _optimizer(rate, epochs * self._steps, self._trainable, scaled=self._halves)
        self._held = _held_outputs(model, context, data) if loss is None else ()
        self._loss = loss or _own_loss(model, data, len(self._held))
        self._step = self._compiled()
        self._file = context.folder / label / CHECKPOINT
        self._fingerprint = _fingerprint(
            data, context, epochs, rate, self._batch, [tuple(v.shape) for v in self._variables]
        )

    def run(self) -> History:
        """All epochs that are left."""
        progress, best = self._resumed()
        resumed = progress.epochs or None
        began_at = progress.epochs
        if resumed and not progress.finished and self._after_batch is not None:
            self._after_batch(progress.epochs * self._steps, self._epochs * self._steps)
        began = time.monotonic()
        while not progress.finished and progress.epochs < self._epochs:
            progress, best = self._one_epoch(progress, best, began, began_at)
        if best is not None:
            checkpoint.restore(self._variables, best)
        return History(
            progress.losses, progress.scores, progress.epochs, progress.seconds, progress.stopped_early, resumed
        )

    def _one_epoch(
        self, before: Progress, best: list[Array] | None, began: float, began_at: int
    ) -> tuple[Progress, list[Array] | None]:
        started = time.monotonic()
        epoch = before.epochs
        mean_loss = self._train_epoch(epoch)
        value = self._judged()
        kept = before.best
        if self._after_batch is None and (kept is None or value >= before.scores[kept]):
            kept, best = epoch, checkpoint.values(self._variables)
        scores = (*before.scores, value)
        patience = max(PATIENCE_EPOCHS, math.ceil(PATIENCE_SHARE * self._epochs))
        # Of equal scores the last one's weights are kept, but only a better one counts as progress.
        stop = kept is not None and epoch - scores.index(max(scores)) >= patience
        done = epoch + 1
        progress = Progress(
            losses=(*before.losses, mean_loss),
            scores=scores,
            best=kept,
            seconds=before.seconds + time.monotonic() - started,
            finished=stop or done == self._epochs,
            stopped_early=stop and done < self._epochs,
        )
        groups = {
            _MODEL: checkpoint.values(self._variables),
            _OPTIMIZER: checkpoint.values(self._optimizer.variables),
            _BEST: best or [],
        }
        checkpoint.save(self._file, self._fingerprint, progress, groups)
        left = (time.monotonic() - began) / (done - began_at) * (self._epochs - done)
        self._context.say(
            f"{self._label}: epoch {done} of {self._epochs}, loss {mean_loss:.4g}, {self._worded(value)}, "
            + ("stopped early" if progress.stopped_early else f"about {math.ceil(left)} s left")
        )
        return progress, best

    def _worded(self, value: float) -> str:
        if self._data.validation.labels is None:
            return f"validation loss {-value:.4g}"
        if self._data.task == "classification":
            return f"validation accuracy {value:.4f}"
        return f"validation error {-value:.4g} (mean square)"

    def _train_epoch(self, epoch: int) -> float:
        """One pass over the rows in this epoch's own order; the mean loss."""
        order = np.random.default_rng([self._context.seed, epoch]).permutation(self._data.train.count)
        losses = []
        for index in range(self._steps):
            which = order[index * self._batch : (index + 1) * self._batch]
            losses.append(float(self._step(*self._feed(which))))
            if not self._halves and not math.isfinite(losses[-1]):
                raise self._diverged(epoch, index, losses[-1])
            if self._project is not None:
                self._project()
            if self._after_batch is not None:
                self._after_batch(epoch * self._steps + index + 1, self._epochs * self._steps)
        finite = [value for value in losses if math.isfinite(value)]
        if len(finite) < max(1.0, OVERFLOW_SHARE * len(losses)):
            raise self._diverged(epoch, len(losses) - 1, losses[-1])
        return float(np.mean(finite))

    def _diverged(self, epoch: int, index: int, value: float) -> ToolError:
        return ToolError(
            f"{self._label}: the loss is {value} in step {index + 1} of epoch {epoch + 1}",
            remedy="train with a smaller learning_rate, and see that the rows are scaled as the model expects them",
        )

    def _feed(self, which: Array) -> tuple[Any, Any, Any]:
        """Inputs, labels and held answers of these rows as tensors."""
        import tensorflow as tf

        rows = self._data.train
        inputs = tuple(tf.constant(x[which], dtype) for x, dtype in zip(rows.inputs, self._dtypes, strict=True))
        labels = None if rows.labels is None else tf.constant(rows.labels[which])
        return inputs, labels, tuple(tf.constant(held[which]) for held in self._held)

    def _compiled(self) -> Callable[..., Any]:
        import tensorflow as tf

        view, variables, optimizer = self._view, self._trainable, self._optimizer

        def step(inputs: Any, labels: Any, held: Any) -> Any:
            with tf.GradientTape() as tape:
                outputs = view(list(inputs), training=True)
                outputs = tuple(_wide(y) for y in (outputs if isinstance(outputs, list | tuple) else [outputs]))
                value = self._loss(inputs, labels, (*outputs, *held) if held else outputs)
                value = tf.cast(value, tf.float32) + sum(tf.cast(part, tf.float32) for part in view.losses)
                scaled = optimizer.scale_loss(value)
            gradients = tape.gradient(scaled, variables)
            pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
            if not pairs:
                raise ToolError("no weight of the model has a gradient: nothing can be trained")
            optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
            return value

        return tf.function(step)  # type: ignore[no-any-return]

    def _judged(self) -> float:
        """The score on the validation rows; where they have no labels, minus the loss."""
        rows = self._data.validation
        if rows.count == 0:
            rows = self._data.train
        outputs = self._predict(rows.inputs)
        if rows.labels is not None:
            return score_of(outputs[0], rows.labels, self._data.task)
        import tensorflow as tf

        inputs = tuple(tf.constant(x, dtype) for x, dtype in zip(rows.inputs, self._dtypes, strict=True))
        return -float(self._loss(inputs, None, tuple(tf.constant(y) for y in outputs)))

    def _resumed(self) -> tuple[Progress, list[Array] | None]:
        """Where an interrupted training stood, its variables restored; the beginning when there was none."""
        dtypes = {
            _MODEL: [variable.dtype for variable in self._variables],
            _OPTIMIZER: [variable.dtype for variable in self._optimizer.variables],
        }
        try:
            progress, groups = checkpoint.load(self._file, self._fingerprint, {**dtypes, _BEST: dtypes[_MODEL]})
        except FileNotFoundError:
            return Progress(), None
        except ValueError as error:
            self._context.say(f"{self._label}: begun anew: {error}")
            return Progress(), None
        checkpoint.restore(self._variables, groups[_MODEL])
        checkpoint.restore(self._optimizer.variables, groups[_OPTIMIZER])
        self._context.say(f"{self._label}: resumed after epoch {progress.epochs}")
        return progress, groups.get(_BEST)


def _wide(tensor: Any) -> Any:
    import tensorflow as tf

    return tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor


def _batch_rows(count: int) -> int:
    """Rows per step: 64, or fewer where that would leave an epoch few steps."""
    return min(count, BATCH_ROWS, max(LEAST_BATCH_ROWS, count // STEPS_WANTED))


def _seed_everything(model: Any, seed: int, label: str) -> None:
    """Deterministic kernels, and the random layers' own generators (dropout, noise) begun from the seed."""
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed % 2**32)
    states = [variable for variable in model.variables if variable.name.endswith("seed_generator_state")]
    for index, state in enumerate(states):
        state.assign([zlib.crc32(f"{seed}/{label}/{index}".encode()), 0])


def _projection(model: Any, context: Context) -> Callable[[], None] | None:
    """What puts pruned and shared weights back in their places after an update."""
    if not context.preserve:
        return None
    from converters.compress.preserve import projection

    made: Callable[[], None] = projection(model, context.preserve)
    return made


def _optimizer(rate: float, steps: int, variables: list[Any], *, scaled: bool) -> Any:
    import keras

    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def _held_outputs(model: Any, context: Context, data: TrainingData) -> tuple[Array, ...]:
    """Answers of the outputs that have no labels, which training on the first one alone would let drift: the base's."""
    if len(model.outputs) == 1:
        return ()
    base = context.base()
    shapes = [[tuple(tensor.shape) for tensor in each.outputs] for each in (model, base)]
    return tuple(Predictor(base if shapes[0] == shapes[1] else model)(data.train.inputs)[1:])


def _own_loss(model: Any, data: TrainingData, held: int) -> Loss:
    """The task's loss on the first output, and for each further one its distance from the held answers, in units of their
    spread."""
    from keras import ops

    if data.train.labels is None:
        raise ToolError("training needs labels, and the training rows have none", remedy="add y_train to the data")
    first = task_loss(model, data.train, data.task)

    def loss(_inputs: Any, labels: Any, outputs: Any) -> Any:
        value = first(labels, outputs[0])
        for given, wanted in zip(outputs[1 : 1 + held], outputs[1 + held :], strict=False):
            wanted = ops.cast(wanted, "float32")  # noqa: PLW2901
            spread = ops.var(wanted) + 1e-6
            value = value + ops.mean(ops.square(ops.cast(given, "float32") - wanted)) / spread
        return value

    return loss


def _fingerprint(
    data: TrainingData, context: Context, epochs: int, rate: float, batch: int, shapes: list[tuple[int, ...]]
) -> str:
    """What decides the result of a training, hashed: a checkpoint of another is not taken up."""
    told: Mapping[str, Any] = {
        "data": data.sha256,
        "rows": (data.train.count, data.validation.count),
        "task": data.task,
        "seed": context.seed,
        "preserve": sorted(context.preserve),
        "epochs": epochs,
        "rate": rate,
        "batch": batch,
        "shapes": shapes,
    }
    return hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()
