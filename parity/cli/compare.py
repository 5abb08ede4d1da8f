"""`vgg-parity compare`: are two models of your own equal, and where do they diverge if not?"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from parity import machine
from parity.cli import recordings
from parity.cli.command import (
    PATH,
    Failed,
    Options,
    argument,
    choice,
    command,
    command_line,
    failures,
    flag,
    option,
    positive,
    refuse,
)
from parity.cli.options import (
    comparison_options,
    device_option,
    python_options,
    stages_option,
    threads_option,
    together,
)
from parity.cli.reports import check_reports, reports_options, write_reports
from parity.compare.outcome import Outcome
from parity.compare.tolerances import FRESH_SEEDS
from parity.compare.verdicts import DIFFERENT, INIT, TRAINING
from parity.errors import InputError
from parity.modules.description import both_paths
from parity.modules.layer_kinds import SIDES
from parity.pairs.compare_models import compare_models
from parity.pairs.inputs import parse_named
from parity.pairs.losses import LOSSES
from parity.pairs.outcome import PairOutcome
from parity.pairs.session import RATE
from parity.progress import Console, Phases
from parity.recipe.optimizer import Optimizer
from parity.recordings.compare_recordings import BEGAN
from parity.report import plain
from parity.weights.half_precision import HALVES

STEPS = 10
"""Default number of training steps."""

LOSS, OPTIMIZER = "mse", "momentum"
"""The training where no option names another."""

trained = together(
    stages_option(TRAINING, INIT),
    option(
        "--init-seeds",
        type=positive,
        default=FRESH_SEEDS,
        metavar="N",
        help=f"fresh models of each side in the stage init (default: {FRESH_SEEDS})",
    ),
    comparison_options(STEPS, f"default: {STEPS}", "default: 1, beyond 10 steps 3", HALVES, chosen=True),
    option(
        "--loss",
        type=choice(tuple(LOSSES)),
        default=LOSS,
        help="training loss (default: mse, with random targets)",
    ),
    option(
        "--optimizer",
        type=choice(("momentum", "sgd", "adam", "adamw")),
        default=OPTIMIZER,
        help="optimizer of the training steps (default: momentum, with coefficient 0.9); adamw has the frameworks' weight decay of 0.01",
    ),
    option(
        "--torch-loss",
        metavar="MODULE:FUNCTION",
        help="your own loss: a function (outputs, *targets), or torch.nn:CrossEntropyLoss(label_smoothing=0.1)",
    ),
    option("--paddle-loss", metavar="MODULE:FUNCTION", help="the same for Paddle"),
    option(
        "--torch-optimizer",
        metavar="MODULE:FUNCTION",
        help="your own optimizer: a function of the model that returns it, (optimizer, scheduler) or an object with step() and optimizer; "
        "or torch.optim:AdamW(lr=0.001)",
    ),
    option("--paddle-optimizer", metavar="MODULE:FUNCTION", help="the same for Paddle"),
    option(
        "--batches",
        metavar="FILE.npz",
        help="the batches of the steps: arrays [steps, batch, ...] by name, or MODULE:FUNCTION that yields mappings of names to arrays",
    ),
    option(
        "--loss-input",
        multiple=True,
        metavar="NAME[=N,...]",
        help="an array of the batches that the losses get (default: target, targets, label, labels and y), or with a shape, such as "
        "labels=8:10, a random one; repeat the option for more",
    ),
    option("--rate", type=float, default=RATE, metavar="LR", help=f"learning rate (default: {RATE})"),
    device_option(),
    threads_option("CPU threads of each side; both run at the same time", 1),
    python_options,
)
"""The options of training a pair of models."""


@command(
    "compare",
    "Compare two models of your own without changing them: inference, gradients and training, tensor by tensor. Or compare two "
    "recordings of training loops, made with parity.record.",
    (
        "--torch my_models.py:Net --paddle my_models.py:PaddleNet --input-shape 8,3,64,64",
        "--torch torchvision.models:resnet18 --paddle paddle.vision.models:resnet18 --input-shape 2,3,64,64 --report report",
        "--torch net.py:Net --paddle net.py:PaddleNet --inputs batch.npz --save-map map.json   (for convert --map)",
        "--torch net.py:Net --paddle net.py:PaddleNet --input 'x=4,3,8,8:NCHW|NHWC' --output-layout 'NCHW|NHWC'",
        "torch.run paddle.run   (two recordings of parity.record)",
    ),
)
@argument("recordings", type=PATH, nargs=-1, metavar="[A.run B.run]")
@option(
    "--twin",
    type=PATH,
    multiple=True,
    metavar="RUN",
    help="a recording of the reference made with twin=1, which measures rounding; repeat the option for more",
)
@option(
    "--torch",
    metavar="MODULE:FACTORY",
    help="the factory of the torch.nn.Module; FILE.py:CLASS, MODULE:FUNCTION(width=8) and MODULE:CLASS(CONFIG(width=8)) also work",
)
@option("--paddle", metavar="MODULE:FACTORY", help="the factory of the paddle.nn.Layer")
@option(
    "--input-shape",
    multiple=True,
    metavar="N,...",
    help="random input of this shape; 2,7:100 is shape 2,7 with integers from 0 to 99, 2,7:bool has a dtype, 4,3,8,8:NCHW|NHWC has the "
    "layouts of both models; repeat the option for a second input",
)
@option("--inputs", type=PATH, metavar="FILE.npz", help="the inputs in the order of forward's arguments")
@option(
    "--input",
    multiple=True,
    metavar="NAME=N,...",
    help="random input for the argument NAME of both models, such as attention_mask=2,7:2; repeat the option for more",
)
@option(
    "--torch-input",
    multiple=True,
    metavar="NAME=N,...",
    help="the same for the PyTorch model only; with --paddle-input of the same shape, it is one input with two names",
)
@option("--paddle-input", multiple=True, metavar="NAME=N,...", help="the same for the Paddle model only")
@option(
    "--output-layout",
    multiple=True,
    metavar="[NAME=]NCHW|NHWC",
    help="the axes of PyTorch's outputs and of Paddle's: of all with as many axes, or of one; repeat the option for more",
)
@option(
    "--weights", type=PATH, metavar="FILE", help="a state dict of either model to start from (default: fresh weights)"
)
@option(
    "--torch-weights",
    type=PATH,
    metavar="FILE",
    help="a state dict of the PyTorch model; with --paddle-weights, each model keeps its own weights, and they are compared first",
)
@option("--paddle-weights", type=PATH, metavar="FILE", help="the same for the Paddle model")
@option(
    "--map",
    type=PATH,
    metavar="FILE",
    help="a JSON file that lists which layers are pairs, if automatic matching fails",
)
@option("--save-map", type=PATH, metavar="FILE", help="write the map of layers, for vgg-parity convert --map")
@option(
    "--set-torch",
    multiple=True,
    metavar="LAYER.ATTRIBUTE=VALUE",
    help="set an attribute before the comparison, such as BatchNorm2d.eps=1e-5; repeat the option for more",
)
@option("--set-paddle", multiple=True, metavar="LAYER.ATTRIBUTE=VALUE", help="the same for the Paddle model")
@option(
    "--widen",
    multiple=True,
    type=choice(SIDES),
    help="compute in float64 where only this side's model computes in float32, to see whether anything else differs",
)
@option("--kinds", type=PATH, metavar="FILE", help="a JSON file that describes further kinds of layers")
@option(
    "--reproducer",
    type=PATH,
    metavar="DIR",
    help="write reproduce_torch.py and reproduce_paddle.py, which repeat the first call that differs without the models",
)
@reports_options
@trained
def main(options: Options, console: Console) -> dict[str, Any]:
    """Compare two models, or two recordings; `Failed` where they differ."""
    if options.recordings:
        return _compare_recordings(options, console)
    for side in SIDES:
        if not getattr(options, side):
            raise InputError(f"missing option '--{side}': give both models, or two recordings")
    refuse(options, ("twin",), "is for recordings: give two of them")
    check_reports(options)
    started = datetime.now().isoformat(timespec="seconds")
    with failures(), Phases(1 + options.steps) as phases:
        phases.begin("matching layers")

        def say(line: str) -> None:
            console.say(f"  {line}")
            phases.begin(line.partition(":")[0])

        outcome = compare_models(
            torch=options.torch,
            paddle=options.paddle,
            input_shape=options.input_shape or None,
            inputs=options.inputs,
            named_inputs=parse_named(options.input),
            torch_inputs=parse_named(options.torch_input),
            paddle_inputs=parse_named(options.paddle_input),
            output_layouts=options.output_layout,
            map_file=options.map,
            save_map=options.save_map,
            kinds_file=options.kinds,
            weights=options.weights,
            torch_weights=options.torch_weights,
            paddle_weights=options.paddle_weights,
            reproducer=options.reproducer,
            set_torch=options.set_torch,
            set_paddle=options.set_paddle,
            widen=options.widen,
            say=say,
            **training(options),
        )
    whole = outcome.to_json() | surroundings("compare", options) | {"started": started}
    _say(outcome, console)
    if outcome.reproducer:
        console.say(f"  {outcome.reproducer}")
    shown = dict(plain(whole))
    write_reports(options, whole, shown, console)
    if outcome.verdict == DIFFERENT:
        raise Failed(f"the models are {outcome.sentence()}", shown)
    return shown


def _compare_recordings(options: Options, console: Console) -> dict[str, Any]:
    settings = main.make_context(main.name, list(map(str, options.recordings))).params
    for name in settings.keys() - recordings.USED:
        if getattr(options, name) != settings[name]:
            raise InputError(f"{flag(name)} is for models: recordings are compared as they are")
    outcome, result = recordings.compare(options)
    for line in outcome.conditions:
        console.say(f"  not alike to begin with: {line}")
    _say(outcome, console, known=[BEGAN + line for line in outcome.conditions])
    return recordings.finish(outcome, result, options, console)


def surroundings(name: str, options: Options) -> dict[str, Any]:
    """Return the command line, device and machine of the command `name`, for the JSON of a result."""
    return {
        "command": command_line(name, options),
        "device": options.device,
        "threads": options.threads,
        "machine": machine.describe(),
    }


def training(options: Options) -> dict[str, Any]:
    """Return the arguments of `compare_models` for the options of `trained`. `InputError` for an option that a user's program replaces."""
    for name, what, default in (
        ("loss", "loss", LOSS),
        ("optimizer", "optimizer", OPTIMIZER),
        ("rate", "optimizer", RATE),
    ):
        own = [side for side in SIDES if getattr(options, f"{side}_{what}")]
        if own and getattr(options, name) != default:
            raise InputError(f"--{name} has no effect beside --{own[0]}-{what}: leave it out")
    return {
        "loss": options.loss,
        **_optimizers(options),
        "torch_loss": options.torch_loss,
        "paddle_loss": options.paddle_loss,
        "batches": options.batches,
        "loss_inputs": dict(_name_and_shape(text) for text in options.loss_input),
        "steps": options.steps,
        "twins": options.twins,
        "seed": options.seed,
        "dtype": options.dtype,
        "init_seeds": options.init_seeds,
        "stages": [stage.strip() for stage in options.stages.split(",")],
        "isolate": options.isolate,
        "torch_python": options.torch_python,
        "paddle_python": options.paddle_python,
        "device": options.device,
        "threads": options.threads,
    }


def _optimizers(options: Options) -> dict[str, Any]:
    """Return the arguments of `compare_models` for the optimizers: ours, those of the frameworks, or the user's."""
    own = {"torch_optimizer": options.torch_optimizer, "paddle_optimizer": options.paddle_optimizer}
    if any(own.values()):
        return own
    if options.optimizer == "adamw":
        return {
            "torch_optimizer": f"torch.optim:AdamW(lr={options.rate!r})",
            "paddle_optimizer": f"paddle.optimizer:AdamW(learning_rate={options.rate!r})",
        }
    if options.optimizer == "sgd":
        return {"optimizer": Optimizer("momentum", options.rate, momentum=0.0)}
    return {"optimizer": Optimizer(options.optimizer, options.rate)}


def _name_and_shape(text: str) -> tuple[str, str | None]:
    name, equals, shape = text.partition("=")
    return name, shape if equals else None


def _say(outcome: PairOutcome, console: Console, known: Collection[str] = ()) -> None:
    """Print the outcome, without the differences that are `known`."""
    pairing = outcome.pairing
    console.say(f"{outcome.factories['torch']} and {outcome.factories['paddle']}, {outcome.dtype}")
    console.say(f"  {len(pairing.pairs)} layers with weights matched by {pairing.sentence()}")
    say_stages(outcome, console)
    for line in [text for text in outcome.differences if text not in known]:
        console.say(f"  differs: {line}")
    for line in outcome.initialisation.differences if outcome.initialisation else ():
        console.say(f"  differs: {line}")
    for line in outcome.explained:
        console.say(f"  explained: {line}")
    for row in outcome.isolated or []:
        if row["verdict"] == DIFFERENT:
            where = both_paths(row["layer"], row["candidate_layer"])
            console.say(f"  alone: {where}: {row.get('why') or _errors_alone(row)}")
    if outcome.tree:
        for line in outcome.tree.splitlines():
            console.say(line)
    console.say(f"  {outcome.sentence()} ({outcome.seconds:.1f} s)", outcome.verdict)


def say_stages(outcome: Outcome, console: Console) -> None:
    """Print one line per stage: its verdict, the number of tensors, and the tensor nearest to its tolerance; or that it was not run."""
    found = outcome.summaries()
    for name in outcome.asked:
        if name not in found:
            console.say(f"  {name:<10} not run")
            continue
        stage = found[name]
        if name == INIT:  # its errors are distances of different kinds
            counts = f"{stage['compared']:>6} arrays, {stage['different']} of them different"
            console.say(f"  {name:<10} {stage['verdict']:<17} {counts}", stage["verdict"])
            continue
        worst = f"error {stage['max_error']:.1e}, tolerance {stage['bound']:.1e}, at {stage['worst']}"
        console.say(
            f"  {name:<10} {stage['verdict']:<17} {stage['compared']:>6} tensors, worst {worst}", stage["verdict"]
        )


def _errors_alone(row: dict[str, Any]) -> str:
    """Return the errors of a layer that ran alone, for people."""
    return f"forward error {row['forward']:.1e}, backward error {row['backward']:.1e}"
