"""The code blocks of the pages run as written, and print what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from helpers.code_blocks import PageRun
from helpers.paths import ROOT

RESNET50 = (
    'vgg-parity compare --torch "torchvision.models:resnet50(num_classes=10)" --paddle '
    '"paddle.vision.models:resnet50(num_classes=10)" --input-shape 4,3,64,64 --rate 1e-4 --twins 3'
)
PAGES: dict[str, dict[str, str]] = {
    "compare": {RESNET50: "it takes minutes, and which step rounding decides depends on the machine"},
    "initialisation": {},
    "recordings": {
        "python scripts/measure_recording.py --framework torch --steps 24 --update docs/recordings.md": "it takes minutes, and measures"
    },
    "training_port": {},
}
"""Page of docs/ -> its commands that do not run here, and why."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_written(page: str, tmp_path: Path) -> None:
    problems = PageRun(ROOT / "docs" / f"{page}.md", tmp_path, skips=PAGES[page]).problems
    assert not problems, "\n\n".join(problems)


PAGE = """
```python title="one.py"
print("error 1.5e-16 of one")
print("more")
print("took 2.5 s")
```

```console
$ python one.py
error 9.9e-17 of one
...
took 0.1 s
```

```diff title="one.py"
-print("more")
+print("less")
```

```bash
python one.py | \\
    grep less  # which the edit has written
```

```python
import one
```
"""


def problems_of(folder: Path, text: str, **more: dict[str, str]) -> list[str]:
    (folder / "page.md").write_text(text)
    return PageRun(folder / "page.md", folder, **more).problems


def test_a_page_that_says_what_happens_has_no_problems(tmp_path: Path) -> None:
    assert problems_of(tmp_path, PAGE) == []


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("error 9.9e-17 of one", "error 9.9e-17 of two", 9),
        ("...\ntook", "took", 9),
        ("took 0.1 s\n", "took 0.1 s\nmore\n", 9),
        ('-print("more")', '-print("most")', 15),
        ("grep less", "grep more", 21),
        ("import one", "import two", 25),
    ],
)
def test_a_page_that_is_wrong_is_found_at_its_line(tmp_path: Path, old: str, new: str, line: int) -> None:
    assert PAGE.count(old) == 1
    first, *_ = problems_of(tmp_path, PAGE.replace(old, new))
    assert first.startswith(f"page.md, line {line}: ")


def test_commands_are_replaced_or_skipped_by_name(tmp_path: Path) -> None:
    page = "```bash\nfalse\nexit 3\n```\n"
    assert problems_of(tmp_path, page, replacements={"false": "true"}, skips={"exit 3": "a reason"}) == []


def test_a_replacement_or_skip_must_name_a_command_and_a_reason(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "```bash\nfalse\n```\n", replacements={"ls": "true"}, skips={"false": ""})
    assert [text.partition(":")[0] for text in found] == [
        "page.md has no command 'ls'",
        "the skip of 'false' has no reason",
    ]


def short_training(framework: str, network: str, more: str = "") -> str:
    """A run of seconds in the place of one of minutes or days."""
    return (
        f"python {ROOT}/scripts/train_{framework}.py --network {network} --data shapes10 --train-limit 256 --test-limit 64 "
        f"--batch-size 64 --epochs 1 --threads 1 {more}"
    )


README = {
    'pip install -e ".[cpu]" && python scripts/train_paddle.py': short_training("paddle", "vgg16_bn_drop@0.125"),
    'pip install -e ".[cpu,test]" && pytest': "pytest --version",
    "python scripts/train_paddle.py --network vgg16_bn_drop --recipe article": short_training(
        "paddle", "vgg16_bn_drop@0.125", "--recipe article --output runs/RUN --save-v2-tar"
    ),
    "python scripts/train_torch.py --network vgg_mini --recipe adam": short_training(
        "torch", "vgg_mini@0.1", "--recipe adam"
    ),
    "python scripts/train_torch.py --resume runs/RUN": f"python {ROOT}/scripts/train_torch.py --resume runs/RUN --threads 1",
    "vgg-parity check --network vgg16_bn_drop --report report": "vgg-parity check --network vgg16_bn_drop@0.125 "
    "--steps 1 --batch-size 2 --stages eval,forward,backward,update --report report2",
    "vgg-parity convert params_pass_199.tar vgg.safetensors": "vgg-parity convert --network vgg16_bn_drop@0.125 "
    "runs/RUN/params_pass_0.tar vgg.safetensors",
    "vgg-parity evaluate --model runs/RUN --views single,flip,crops": "vgg-parity evaluate --model runs/RUN --limit 64 "
    "--views single,flip,crops",
}
"""Command of README.md -> the short one that runs in its place. `.ci/run` runs the test command itself."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_runs_as_written(tmp_path: Path) -> None:
    for number, name in enumerate(("ship.png", "frog.jpg")):
        Image.new("RGB", (32, 32), (40 * number, 90, 160)).save(tmp_path / name)
    problems = PageRun(ROOT / "README.md", tmp_path, replacements=README).problems
    assert not problems, "\n\n".join(problems)
