"""`compare_models` and `assert_models_equal`: compare two models of your own from Python."""

from __future__ import annotations

import ast
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.compare import engine
from parity.compare.check import usual_twins
from parity.compare.noise_model import TWINS
from parity.compare.relative_error import NothingCompared
from parity.compare.tolerances import FRESH_SEEDS, ONE_STEP
from parity.compare.verdicts import DIFFERENT, INIT, PHASES, TRAINING, Divergence, Verdicts
from parity.errors import InputError, suggest
from parity.modules.layer_kinds import KINDS, OTHER_SIDE, SIDES, read_kinds
from parity.pairs import mapping, model_tree, state_dict_files
from parity.pairs.factories import parse, text_of
from parity.pairs.first_call import FirstCall, find_call_of_largest, find_first_call, is_explained
from parity.pairs.initialisation import compare_initialisation
from parity.pairs.inputs import take_inputs
from parity.pairs.layouts import parse_layouts
from parity.pairs.map_files import read_map
from parity.pairs.model_server import ModelService
from parity.pairs.model_source import ModelSource
from parity.pairs.model_worker import ModelWorker
from parity.pairs.outcome import PairOutcome
from parity.pairs.programs import Program, check_sides, split_batches, take_batches
from parity.pairs.reproducer import write_reproducer
from parity.pairs.session import EXACT, RATE, Pair, Session, side_of
from parity.recipe.optimizer import Optimizer
from parity.short_repr import few
from parity.training.run_folder import check_writable
from parity.weights.half_precision import HALVES

MOST_ORDERS = 2
"""The numbers of the weights are brought into another order at most so often, until the output depends on all layers."""

BEFORE_LOSS = ("start", "eval", "forward")
"""The phases of the first step that no loss changes."""

STAGES = (INIT, *TRAINING)
"""The stages of two models of a user. `init` is only compared if it is asked for: all others start both models from the same weights."""


def compare_models(
    torch: Any,
    paddle: Any,
    inputs: Any = None,
    *,
    input_shape: str | Sequence[int] | Sequence[Sequence[int] | str] | None = None,
    named_inputs: Mapping[str, Any] | None = None,
    torch_inputs: Mapping[str, Any] | None = None,
    paddle_inputs: Mapping[str, Any] | None = None,
    output_layouts: Sequence[str] = (),
    loss: str = "mse",
    optimizer: Optimizer | None = None,
    torch_loss: Any = None,
    paddle_loss: Any = None,
    torch_optimizer: Any = None,
    paddle_optimizer: Any = None,
    batches: Any = None,
    loss_inputs: Sequence[str] | Mapping[str, Any] = (),
    steps: int = 10,
    twins: int | None = None,
    seed: int = 0,
    dtype: str | None = None,
    stages: Sequence[str] = tuple(TRAINING),
    map_file: str | Path | None = None,
    save_map: str | Path | None = None,
    kinds_file: str | Path | None = None,
    init_seeds: int = FRESH_SEEDS,
    weights: str | Path | None = None,
    torch_weights: str | Path | None = None,
    paddle_weights: str | Path | None = None,
    isolate: bool = False,
    reproducer: str | Path | None = None,
    set_torch: Sequence[str] = (),
    set_paddle: Sequence[str] = (),
    widen: Sequence[str] = (),
    folder: str | Path | None = None,
    torch_python: str | Path | None = None,
    paddle_python: str | Path | None = None,
    device: str = "cpu",
    threads: int = 1,
    say: Callable[[str], None] = engine.Silent,
) -> PairOutcome:
    """Compare a PyTorch module with a Paddle layer: inference, gradients and training, tensor by tensor.

    Both sides get the same weights (those of the PyTorch model, converted), inputs and dropout masks. Arrays that are
    constant, such as fresh biases, get some noise. Both run in float64, beside one-ULP twins of the PyTorch model. Models
    of bfloat16 or float16 run in their own dtype.

    A model, a class or a function is compared in this process. The comparison works on copies. It leaves weights,
    modes, hooks, gradients, random states and framework settings as they were. Hooks of a model are copied with it and
    are called for the copy. A text names what makes a model, and that model gets a process of its own.

    Args:
        torch: A `torch.nn.Module`, a class of it, a function without arguments that returns one, or a text. The text is
            `MODULE:FACTORY`, `FILE.py:FACTORY` or `MODULE:FACTORY(name=value, ...)`. A value is plain, or the call of
            another factory of the module: `transformers:BertModel(BertConfig(hidden_size=8))`. A module that imports
            both frameworks must import PyTorch first if Paddle is 2.6.
        paddle: The same for a `paddle.nn.Layer`.
        inputs: An array or tensor, or a list of them in the order of the arguments of `forward`. A text is the path of
            a .npz file that holds them in this order. Dtypes: float16, float32, float64, int32, int64, uint8, bool.
        input_shape: The shape of a random normal input, or a list of shapes. "2,7:100" asks for whole numbers below 100
            in the shape [2, 7], for embeddings; "2,7:bool" for booleans; "2,7:100:int32" for a dtype. In
            "4,3,8,8:NCHW|NHWC", PyTorch gets the shape [4, 3, 8, 8] and Paddle the same numbers in the shape
            [4, 8, 8, 3]; "2,7:bool|int64" gives the sides two dtypes. Floats are converted to the dtype of the check.
            Give either this or `inputs`. A batch norm in training needs more than one number a channel.
        named_inputs: Inputs of both models by the name of an argument of `forward`: arrays, or shapes as texts. They come
            after those of `inputs` or `input_shape`, as in `{"attention_mask": "2,7:2"}`. A layout alone, as in
            `{"x": "NCHW|NHWC"}`, is that of the input of this name in the file, or of the only one in `inputs`.
        torch_inputs: The same for the PyTorch model only. Where an argument has another name in Paddle, give the same
            shape or array in `paddle_inputs`, in the same order: it is then one input. Dtypes may differ, and also
            layouts: "4,3,8,8:NCHW" and "4,8,8,3:NHWC" are one input.
        paddle_inputs: The same for the Paddle model only.
        output_layouts: The order of axes of outputs on both sides: "NCHW|NHWC" for all with four axes, or
            "NAME=NCHW|NHWC" for one.
        loss: "mse" is half the mean squared distance of every output from fixed random numbers. "cross_entropy" takes
            class scores [N, K] and random labels. "projection" is linear. Several outputs are summed.
        optimizer: A `parity.recipe.optimizer.Optimizer` without groups and label smoothing. By default momentum 0.9
            with the learning rate 0.00001.
        torch_loss: The user's loss of the PyTorch side: a function (outputs, *targets) that returns one number, a module, or a
            text: `MODULE:FUNCTION` or the call `MODULE:CLASS(name=value)`. It gets what the model returns, and the inputs of the
            loss in order. An argument named `model` gets the model.
        paddle_loss: The same for Paddle. What one side has, the other needs.
        torch_optimizer: A function of the model, or a text of one, that returns an optimizer, a pair (optimizer, scheduler), or
            an object with `step()` and `optimizer`. Its `step()` does everything after the backward pass, such as clipping.
            The class of an optimizer gets the model's parameters: `torch.optim:AdamW(lr=0.001)`.
        paddle_optimizer: The same for Paddle. A schedule inside the optimizer is stepped after it.
        batches: The batches of the steps, for both sides: a .npz file of arrays [steps, batch, ...], a text or a function that
            returns an iterable of mappings of names to arrays, or such an iterable. Steps go through them in turn. An array is
            passed by its name where `forward` has an argument of that name, and else in order.
        loss_inputs: The names of the arrays that the losses get, by default target, targets, label, labels and y; or name ->
            array or shape, such as `{"labels": "8:10"}`, for every step.
        steps: Training steps of the stage "trajectory".
        twins: One-ULP twins of the PyTorch model. The farthest one counts. By default 1, and 3 beyond ten steps. A
            float32 step has three more, one after the other.
        seed: Seed of the random inputs, labels, dropout masks and noise.
        dtype: "float64", "float32", "bfloat16" or "float16". By default that of most numbers of both models if it is
            bfloat16 or float16, and else float64. In a dtype other than float64, both sides are compared with the
            float64 result. The tolerance is a multiple of what moving every weight and input by one ULP of the dtype
            changes. The weights of a float32 trajectory are compared with those of its twin. bfloat16 and float16 have
            no trajectory.
        stages: Some of "eval" (inference), "forward", "backward", "update" (the first training step), "trajectory", and
            "init". The stage init is not among the default ones. It makes fresh models of both sides for several seeds,
            and compares how they are initialised. It needs a class, a function or a text on each side, and no model.
        map_file: A JSON file that says which layers are pairs. It may name only some of them.
        save_map: Where to write the map that was used, for `map_file` and for converting checkpoints.
        kinds_file: A JSON file of further kinds of layers (`parity.modules.layer_kinds.read_kinds`).
        init_seeds: Fresh models of each side in the stage init, with the seeds `seed`, `seed + 1` and so on.
        weights: A state dict file of either model (.pt, .pth, .pdparams) to start from.
        torch_weights: A state dict file of the PyTorch model, also .safetensors. With `paddle_weights`, each model gets its
            own weights, nothing is copied, and the weights are compared first. Alone, it is like `weights`.
        paddle_weights: The same for the Paddle model.
        isolate: Also run every layer by itself on the input of the reference.
        reproducer: A folder for `reproduce_torch.py` and `reproduce_paddle.py`, which repeat the first call that differs
            without the models. Nothing is written where the models are equal.
        set_torch: Attributes to set in the PyTorch model, as `LAYER.ATTRIBUTE=VALUE`. `LAYER` is a path, or a class for
            all its layers, as in "BatchNorm2d.eps=1e-5". It shows whether a known difference is the only one.
        set_paddle: The same for the Paddle model.
        widen: Some of "torch" and "paddle": compute in float64 where only that side's model computes in float32. It shows
            whether this is the only difference.
        folder: Where modules, files and factories are looked for. By default the current folder.
        torch_python: The Python interpreter for a PyTorch model that a text names. By default this one.
        paddle_python: The same for Paddle.
        device: "cpu" or "gpu", for models that a text names. A live model stays where it is.
        threads: CPU threads of each process, for models that a text names.
        say: A function that is called with each line of progress.

    Returns:
        The verdict and everything that was compared.

    Raises:
        InputError: A model, a file or the inputs cannot be used; a model fails; layers cannot be matched; or a model draws
            random numbers by a function that has no replacement. The message is one line and names the place.
        WorkerFailed: A process died.

    Examples:
        ```python
        outcome = parity.compare_models(torch_model, paddle_model, inputs)
        outcome = parity.compare_models("my_models.py:Net", "my_models.py:PaddleNet", input_shape=(8, 3, 64, 64))
        print(outcome.verdict, outcome.sentence())
        ```
    """
    for side, factory in (("torch", torch), ("paddle", paddle)):
        _check_factory(side, factory)
    _check_stages(stages, {"torch": torch, "paddle": paddle})
    _check_sides(widen)
    _check_numbers(stages, steps, twins, dtype)
    files = ((weights, None), (torch_weights, "torch"), (paddle_weights, "paddle"))
    _check_weights([bool(path) for path, _ in files], stages)
    if reproducer:
        check_writable(Path(reproducer), "folder")  # before minutes of work
    program_loss = _of_both(torch_loss, paddle_loss)
    program_optimizer = _of_both(torch_optimizer, paddle_optimizer)
    check_sides(program_loss, program_optimizer, {"torch": torch, "paddle": paddle})
    by_name = {"both": named_inputs or {}, "torch": torch_inputs or {}, "paddle": paddle_inputs or {}}
    found = take_batches(batches, steps, str(folder or Path.cwd()))
    is_given = inputs is not None or input_shape is not None or any(by_name.values())
    if found and is_given:
        raise InputError("the batches hold the inputs: leave out --inputs, --input-shape and --input")
    batch_names, batch_inputs, targets = split_batches(found, loss_inputs, bool(program_loss), seed)
    has_own = found or (not is_given and set(stages) == {INIT})  # models that are only made fresh do not run
    taken = (next(iter(batch_inputs), []), {}, {}) if has_own else take_inputs(input_shape, inputs, seed, by_name)
    arrays, names, forms = taken
    pair = Pair(
        torch,
        paddle,
        arrays,
        loss,
        optimizer or Optimizer("momentum", RATE),
        steps,
        seed,
        tuple(stage for stage in STAGES if stage in stages),
        read_map(Path(map_file)) if map_file else None,
        str(folder) if folder else None,
        isolate,
        {"torch": [change(text) for text in set_torch], "paddle": [change(text) for text in set_paddle]},
        read_kinds(Path(kinds_file)) if kinds_file else KINDS,
        names,
        forms,
        parse_layouts(output_layouts),
        tuple(widen),
        init_seeds,
        Program(program_loss, program_optimizer, batch_inputs, targets),
        batch_names,
    )
    if optimizer and (optimizer.groups or optimizer.label_smoothing):
        raise InputError(
            "a comparison of models supports no parameter groups and no label smoothing: remove them from the optimizer"
        )
    usual = usual_twins(steps if "trajectory" in stages else 1)
    beside = [f"twin {number}" for number in range(1, 1 + (usual if twins is None else twins))]
    if not set(stages) - {INIT}:  # nothing is computed whose rounding a twin would show
        beside, dtype = [], "float64"
    if dtype not in (None, "float64"):
        beside = [EXACT, *beside]
    pythons = {"torch": torch_python, "paddle": paddle_python}
    factories = {"torch": torch, "paddle": paddle}
    workers: dict[str, ModelService] = {}
    with contextlib.ExitStack() as stack:
        for name in ("torch", "paddle", *beside):
            side = side_of(name)
            if isinstance(factories[side], str):
                workers[name] = stack.enter_context(ModelWorker(side, pythons[side], threads=threads, device=device))
            else:
                workers[name] = ModelService(side, None, "cpu")
                stack.callback(workers[name].release)
        given: dict[str, Record] = {}
        for path, owner in files:
            given |= state_dict_files.read(Path(path), workers["torch"], owner) if path else {}
        outcome = run_pair(pair, workers, dtype, say, given, Path(reproducer) if reproducer else None)
    if save_map:
        mapping.save(Path(save_map), outcome.pairing)
    return outcome


def _of_both(torch: Any, paddle: Any) -> dict[str, Any]:
    """Return side -> what it was given, without None."""
    return {side: given for side, given in (("torch", torch), ("paddle", paddle)) if given is not None}


def run_pair(
    pair: Pair,
    workers: Mapping[str, ModelService],
    dtype: str | None = "float64",
    say: Callable[[str], None] = engine.Silent,
    start: Mapping[str, Record] | None = None,
    reproducer: Path | None = None,
) -> PairOutcome:
    """Compare the models of `pair`. For `workers`, `dtype` and `start` see `parity.pairs.session.Session`.

    `reproducer` is a folder for programs that repeat the first call that differs.
    """
    with ThreadPoolExecutor(len(workers)) as pool:
        session = Session(pair, workers, dtype, pool, start or {})
        outcome = _compare_unproved(session, _compare(session, say), say)
        outcome = _compare_rounded(session, outcome, say)
        if outcome.verdict != DIFFERENT and outcome.asked:
            _tell_unproved(session, outcome)
        called = {a.partition("#")[0]: b.partition("#")[0] for a, b in outcome.verdicts.partners.items()}
        outcome.models = model_tree.side_by_side(session.models, {**called, **session.pairing.partner(SIDES[0])})
        if outcome.first:
            uncompiled = compare_uncompiled(session, outcome)
            found = name_calls(session, uncompiled or outcome, bool(reproducer))
            if uncompiled:
                outcome.verdicts.first = describe_uncompiled(outcome.first, uncompiled.first)
            functions = None
            if found and found.backward and found.calls:
                functions = {side: found.functions(side)[0]["name"] for side in SIDES}
            marked = (uncompiled and uncompiled.first) or outcome.first
            outcome.tree = model_tree.draw(session.models, session.pairing, marked, functions)
            if reproducer:
                outcome.reproducer = write_reproducer(reproducer, session, found, outcome.first.sentence())
        elif reproducer:
            outcome.reproducer = f"no reproducer: the models are {outcome.verdict}"
        outcome.asked = pair.stages
        if INIT in session.pair.stages:  # last, because it releases the models
            started = time.monotonic()
            outcome.initialisation = compare_initialisation(session, pair.init_seeds, say)
            outcome.seconds += time.monotonic() - started
    return outcome


def _compare(session: Session, say: Callable[[str], None], adds_rounding: bool = False) -> PairOutcome:
    """Compare the models of a session from its start state."""
    pair, source = session.pair, ModelSource(session, adds_rounding)
    outcome = PairOutcome(
        source.sides,
        session.dtype,
        tuple(stage for stage in pair.stages if stage != INIT),
        differences=session.differences,
        factories={"torch": text_of(pair.torch), "paddle": text_of(pair.paddle)},
        lanes=session.versions,
        pairing=session.pairing,
        how=pair.how() | {"twins": TWINS[session.dtype] if session.dtype in HALVES else len(source.twins)},
    )
    if outcome.asked:
        engine.run(source, outcome, pair.isolate, say)
    return outcome


def _compare_unproved(session: Session, outcome: PairOutcome, say: Callable[[str], None]) -> PairOutcome:
    """Compare models that are equal again with the weights in other orders, while the outcome leaves layers without a proof."""
    for seed in range(1, 1 + MOST_ORDERS):
        unproved = _unproved(session, outcome)
        if session.start or outcome.verdict == DIFFERENT or not unproved:
            break
        if _shows_gradients(session, outcome):
            text = f"the first weights prove nothing at {few(unproved)}, which no output depends on"
        else:
            text = f"inner tensors differ at {few(unproved)}, and no output does"
        say(f"again, with other weights: {text}")
        session.reorder_weights(session.pair.seed + seed)
        try:
            again = _compare(session, say)
        except (InputError, NothingCompared) as error:  # such as of a matrix that has no Cholesky factor any more
            outcome.explained.append(f"{text}, and the comparison with other weights failed: {error}")
            break
        again.seconds += outcome.seconds
        again.explained.insert(0, f"{text}: all was compared again, with the numbers of each weight in another order")
        outcome = again
    return outcome


def _compare_rounded(session: Session, outcome: PairOutcome, say: Callable[[str], None]) -> PairOutcome:
    """Compare models that differ after the loss again, with the rounding of Paddle's loss; return that outcome if that was the difference.

    It calls the loss three more times in each step, which changes one that has a state: so this cannot be the first comparison.
    """
    first = outcome.first
    if not first or (first.phase in BEFORE_LOSS and first.step == 1):
        return outcome
    if session.dtype != "float64" or not session.pair.program.loss:
        return outcome
    if first.cause and any(text in first.cause for text in outcome.differences):
        return outcome  # other settings explain it
    try:
        again = _compare(session, say, adds_rounding=True)
    except (InputError, NothingCompared):  # the first outcome stands
        return outcome
    if again.first and _place(again.first) <= _place(first):
        return outcome
    again.seconds += outcome.seconds
    again.explained.insert(
        0,
        f"rounding in Paddle's loss, such as that of 1 minus a probability near 1, explains the error {first.error:.1e} of {first.tensor}: "
        "all was compared again with it",
    )
    return again


def _place(found: Divergence) -> tuple[int, int]:
    """Return the step and the phase, in the order of computation. Running statistics change in the forward pass, but come as updates."""
    return found.step, PHASES.index("update" if found.phase == "statistics" else found.phase)


def _shows_gradients(session: Session, outcome: PairOutcome) -> bool:
    """Whether the gradients of outputs of layers were compared, which show the layers that no output depends on."""
    return bool(session.pair.length) and "backward" in outcome.asked


def _unproved(session: Session, outcome: PairOutcome) -> list[str]:
    """Return the layers that no output depends on, because a dead ReLU follows them: a mistake before them may not show.

    Without gradients, these are the layers with a tensor that differs.
    """
    return list(dict.fromkeys(outcome.unreached[::-1] if _shows_gradients(session, outcome) else outcome.hidden))


def _tell_unproved(session: Session, outcome: PairOutcome) -> None:
    """Name the layers that stay without a proof: in the verdict if a tensor differs there, and else below it."""
    if not _shows_gradients(session, outcome) or not (unproved := _unproved(session, outcome)):
        return
    differing = [layer for layer in unproved if layer in outcome.hidden]
    if differing:
        session.pairing.notes.append(
            f"not proved: tensors of {few(differing)} differ, and no output depends on them (their gradients are zero)"
        )
    else:
        outcome.explained.append(
            f"the gradients of {few(unproved)} are zero in both models: they prove no backward pass there"
        )


def compare_uncompiled(session: Session, outcome: PairOutcome) -> PairOutcome | None:
    """Compare compiled models once more as they were before, and return the outcome; None where that would add nothing.

    After an outcome, the session runs its models uncompiled.
    """
    first = outcome.first
    if session.dtype != "float64" or not any(session.compiled.values()):
        return None
    if not first or first.step > 1 or is_explained(first):
        return None
    compiled = session.compiled
    session.use_compiled({side: [] for side in SIDES})
    source = ModelSource(session)
    source.steps = 1
    stages = tuple(stage for stage in outcome.asked if stage != "trajectory")
    again = replace(outcome, asked=stages, verdicts=Verdicts(), trajectory=[], explained=[], absent=(), hidden=[])
    try:
        engine.run(source, again)
    except (InputError, NothingCompared):  # the first outcome stands
        session.use_compiled(compiled)
        return None
    return again


def describe_uncompiled(first: Divergence, uncompiled: Divergence | None) -> Divergence:
    """Return the first divergence of compiled models with that of the same models `uncompiled`; None: they are equal."""
    if uncompiled:
        parts = [
            f"uncompiled, {uncompiled.tensor} is the first tensor that differs",
            uncompiled.cause,
            uncompiled.calls,
        ]
        said = ": ".join(part for part in parts if part)
    else:
        said = "uncompiled, the models are equal: the compiler changes what one of them computes"
    if first.cause and not first.generic:
        is_same = uncompiled and uncompiled.cause == first.cause and not uncompiled.calls
        return first if is_same else replace(first, calls=said)
    return replace(first, cause=said, generic=bool(uncompiled and uncompiled.generic))


def name_calls(session: Session, outcome: PairOutcome, needed: bool) -> FirstCall | None:
    """Add the function calls that differ to the first divergence and to the largest error of `outcome`; return those of the first.

    Where a setting of a layer explains the first divergence, they are searched only if they are `needed` for something else.
    """
    verdicts = outcome.verdicts
    if not verdicts.first or any(session.compiled.values()):
        return None  # the calls inside a compiled part are not seen
    found = find_first_call(session, verdicts.first) if needed or not is_explained(verdicts.first) else None
    if found:
        verdicts.first = found.describe(verdicts.first)
    if verdicts.largest and (larger := find_call_of_largest(session, verdicts.largest)):
        verdicts.largest = larger.describe(verdicts.largest)
    return found if verdicts.first.phase != "loss" else None  # a loss is no call to repeat


def assert_models_equal(torch: Any, paddle: Any, inputs: Any = None, **arguments: Any) -> PairOutcome:
    """Compare two models as `compare_models` does, and raise an error if they are different.

    Args:
        torch: As in `compare_models`.
        paddle: As in `compare_models`.
        inputs: As in `compare_models`.
        **arguments: Further arguments of `compare_models`.

    Returns:
        The outcome, with the verdict "equal" or "chaotic but equal".

    Raises:
        AssertionError: The models are different. The message names the first divergence, its likely cause, the settings
            that differ, and shows both models as trees.
        InputError: As in `compare_models`.
        WorkerFailed: A process died.

    Examples:
        ```python
        def test_my_port():
            parity.assert_models_equal(Net(), PaddleNet(), input_shape=(8, 3, 64, 64))
        ```
    """
    outcome = compare_models(torch, paddle, inputs, **arguments)
    if outcome.verdict == DIFFERENT:
        raise AssertionError("\n".join([outcome.sentence(), *outcome.differences, outcome.tree]))
    return outcome


def change(text: str) -> tuple[str, str, Any]:
    """Parse LAYER.ATTRIBUTE=VALUE into layer, attribute and value; `InputError` for any other text."""
    place, equals, value = text.partition("=")
    layer, dot, attribute = place.rpartition(".")
    try:
        if not (equals and dot):
            raise ValueError
        return layer, attribute, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise InputError(
            f"{text!r} is not LAYER.ATTRIBUTE=VALUE with a plain value, such as BatchNorm2d.eps=1e-5"
        ) from None


def _check_sides(widen: Sequence[str]) -> None:
    """`InputError` for sides that are not known."""
    if unknown := [side for side in widen if side not in SIDES]:
        raise InputError(f"unknown side {unknown[0]!r} to widen; known: {', '.join(SIDES)}")


def _check_numbers(stages: Sequence[str], steps: int, twins: int | None, dtype: str | None) -> None:
    """`InputError` for numbers that a comparison cannot use."""
    if dtype is not None and dtype not in ONE_STEP:
        raise InputError(f"unknown dtype {dtype!r}{suggest(dtype, ONE_STEP)}; known: {', '.join(ONE_STEP)}")
    if not stages:
        raise InputError(f"no stage is given; known: {', '.join(STAGES)}")
    if steps < 1 or (twins or 0) < 0:
        raise InputError(f"steps must be at least 1 and twins at least 0, not {steps} and {twins}")
    if steps < 2 and list(stages) == ["trajectory"]:
        raise InputError("the stage trajectory needs at least 2 steps")


def _check_weights(given: Sequence[bool], stages: Sequence[str]) -> None:
    """`InputError` for files of weights that cannot be used together. `given`: for both models, for PyTorch's, for Paddle's."""
    both, torch, paddle = given
    if both and (torch or paddle):
        raise InputError("pass --weights for both models, or --torch-weights and --paddle-weights, and not all of them")
    if torch and paddle and not {"eval", "forward"} & set(stages):
        raise InputError(
            "two files of weights are compared in the stages eval and forward: pass --stages with one of them"
        )


def _check_stages(stages: Sequence[str], factories: Mapping[str, Any]) -> None:
    """`InputError` for an unknown stage, and for a model in the stage init, which needs something that makes fresh ones."""
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise InputError(f"unknown stage {unknown[0]!r}{suggest(unknown[0], STAGES)}; known: {', '.join(STAGES)}")
    for side, factory in factories.items() if INIT in stages else ():
        if not isinstance(factory, str | type) and is_model(side, factory):
            raise InputError(
                f"the {side} side is a model, {text_of(factory)}, and the stage init makes fresh ones: pass its class, a function that "
                "returns a new model, or MODULE:FACTORY"
            )


MODEL_CLASSES = {"torch": ("torch.nn.modules.module", "Module"), "paddle": ("paddle.nn.layer.layers", "Layer")}
"""Module and name of the base class of all models, by framework."""


def is_model(side: str, value: Any) -> bool:
    """Whether `value` is a model of a framework, or a class of models."""
    classes = getattr(value if isinstance(value, type) else type(value), "__mro__", ())
    return MODEL_CLASSES[side] in {(c.__module__, c.__qualname__) for c in classes}


def _check_factory(side: str, factory: Any) -> None:
    """`InputError` unless `factory` may be a model of the framework, or a factory of one."""
    if isinstance(factory, str):
        parse(factory)
        return
    other = OTHER_SIDE[side]
    if is_model(other, factory):
        raise InputError(
            f"the {side} side is {text_of(factory)}, a model of {NAMES[other]}: pass PyTorch's model first, then Paddle's"
        )
    if not callable(factory):
        raise InputError(
            f"the {side} side is of type {type(factory).__name__}: pass a model, a function that returns one, or MODULE:FACTORY"
        )
    version = getattr(sys.modules.get("paddle"), "__version__", "")
    if side == "torch" and version.startswith("2.") and "torch" not in sys.modules:
        raise InputError(
            f"Paddle {version} was imported before PyTorch, so PyTorch cannot be imported: import torch first, or pass PyTorch's model as "
            "MODULE:FACTORY, which runs in its own process"
        )
