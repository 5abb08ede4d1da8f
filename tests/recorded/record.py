"""Record the program's verdicts and files, to compare them after a change that must not alter behaviour.

    python tests/recorded/record.py FOLDER [--parts networks,pairs,exports,resumed] [--checkout DIR]

It writes one JSON file for each part into FOLDER. `tests/recorded/paddle26` and `paddle33` hold the results of main before the packages
were rearranged (November 2026); `tests/compare/test_recorded_verdicts.py` compares. Verdicts, first divergences, tensor counts, causes and
the bytes of exports do not depend on the machine. The weights of `resumed` do: compare them on the machine that recorded them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAIRS = (
    "alexnet,vgg11,vgg11_bn,resnet18,squeezenet1_1,mobilenet_v2,mobilenet_v3_small,shufflenet_v2_x1_0,googlenet,"
    "transformer_encoder_layer"
)
EXPORTS = {
    "vgg16_bn_drop@0.125": [],
    "vgg_mini@0.125": ["--softmax", "--preprocess", "--fold-batch-norm", "--opset", "17"],
    "googlenet_naive": ["--opset", "21"],
    "vgg_fast@0.25": ["--fold-batch-norm"],
    "vgg_a_lrn_cifar@0.125": [],
    "lenet": ["--dense"],
}
"""Networks, and the options of their exports."""


MULTIPLYING = ("plain56@0.125",)
"""Networks that multiply rounding, so that the processor decides after how many steps a check ends."""


def script(checkout: Path, name: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """The JSON object that a script of `checkout` prints."""
    command = [sys.executable, str(checkout / "scripts" / name), *arguments, "--json"]
    done = subprocess.run(command, env=environment(checkout), capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout)}


def networks(checkout: Path) -> Any:
    results = script(checkout, "check_parity.py", "--network", "all")["results"]
    return checks([result for result in results if result["network"] not in MULTIPLYING], "network")


def pairs(checkout: Path) -> Any:
    return checks(script(checkout, "check_parity.py", "--pairs", PAIRS, codes=(0, 1))["results"], "name")


def checks(results: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Name of the check -> verdict, first divergence, and verdict and tensor count of every stage."""
    return {
        result[key]: {
            "verdict": result["verdict"],
            "first": place(result.get("first_divergence")),
            "differences": result.get("differences", []),
            "stages": {name: [stage["verdict"], stage["compared"]] for name, stage in result["stages"].items()},
        }
        for result in results
    }


def place(first: dict[str, Any] | None) -> dict[str, Any] | None:
    """The place and cause of the first divergence, without its numbers: their last digits depend on the processor."""
    kept = ("step", "phase", "layer", "candidate_layer", "tensor", "cause", "wrong", "generic")
    return first and {key: value for key, value in first.items() if key in kept}


def exports(checkout: Path, versions: dict[str, dict[str, str]] | None = None) -> Any:
    """The versions in the metadata of exported files, by framework, and the SHA-256 of the files, by network and framework.

    With `versions`, these replace the versions in the files, so that files with the same graph are equal.
    """
    import onnx

    found: dict[str, dict[str, Any]] = {"versions": {}, "digests": {}}
    with tempfile.TemporaryDirectory() as folder:
        for network, flags in EXPORTS.items():
            for framework in ("paddle", "torch"):
                file = Path(folder) / "model.onnx"
                arguments = ["--network", network, "--framework", framework, "--output", str(file), *flags]
                script(checkout, "export_onnx.py", *arguments)
                model = onnx.load(file)
                (said,) = (entry for entry in model.metadata_props if entry.key == "versions")
                found["versions"][framework] = json.loads(said.value)
                said.value = json.dumps((versions or found["versions"])[framework])
                found["digests"][f"{network} {framework}"] = hashlib.sha256(model.SerializeToString()).hexdigest()
    return found


def resumed(checkout: Path) -> Any:
    """The SHA-256 of the last checkpoint's arrays of a run that was stopped once and resumed, by framework."""
    from safetensors.numpy import load_file

    digests = {}
    settings = ["--network", "vgg_mini@0.125", "--recipe", "adam", "--data", "shapes10", "--train-limit", "2048"]
    settings += ["--test-limit", "100", "--epochs", "2", "--batch-size", "32", "--threads", "1"]
    for framework in ("paddle", "torch"):
        with tempfile.TemporaryDirectory() as parent:
            folder, program = Path(parent) / "run", str(checkout / f"scripts/train_{framework}.py")
            with subprocess.Popen(
                [sys.executable, program, *settings, "--out", str(folder)],
                env=environment(checkout),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
                    time.sleep(0.1)
                process.send_signal(signal.SIGINT)
            if process.returncode != 130:
                raise SystemExit(f"{program} was to be stopped and ended with {process.returncode}")
            script(checkout, f"train_{framework}.py", "--resume", str(folder), "--threads", "1")
            digest = hashlib.sha256()
            for name, array in sorted(load_file(folder / "last.safetensors").items()):
                digest.update(name.encode() + array.tobytes())
            digests[framework] = digest.hexdigest()
    return digests | {"machine": f"{platform.machine()}, {processor()}"}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


PARTS: dict[str, Callable[[Path], Any]] = {
    "networks": networks,
    "pairs": pairs,
    "exports": exports,
    "resumed": resumed,
}


def main() -> None:
    """Record the parts that the command line names."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path)
    flags.add_argument("--parts", default=",".join(PARTS))
    flags.add_argument("--checkout", type=Path, default=ROOT)
    options = flags.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.parts.split(","):
        text = json.dumps(PARTS[part](options.checkout.resolve()), indent=1, ensure_ascii=False) + "\n"
        (options.folder / f"{part}.json").write_text(text)
        print(f"{options.folder / part}.json", flush=True)


if __name__ == "__main__":
    main()
