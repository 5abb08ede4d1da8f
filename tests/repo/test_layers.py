"""Every part of `parity` has a layer in the import contract of pyproject.toml: the contract ignores parts that it does not name."""

from __future__ import annotations

import re

from helpers.paths import ROOT


def test_every_package_and_module_of_parity_has_a_layer() -> None:
    settings = (
        (ROOT / "pyproject.toml").read_text().partition("[tool.importlinter]")[2]
    )  # Python 3.10 has no reader of TOML
    listed = re.search(r"^layers = \[\n(.*?)^\]", settings, re.MULTILINE | re.DOTALL)
    assert listed
    layers = set(re.findall(r"[a-z_.]+", listed[1]))
    parts = {f"parity.{path.stem}" for path in (ROOT / "parity").glob("[a-z]*.py")}
    parts |= {f"parity.{path.parent.name}" for path in (ROOT / "parity").glob("*/__init__.py")}
    assert layers == parts | {"paddle_impl", "torch_impl"}
    assert "ignore_imports" not in settings
    assert "exclude_type_checking_imports = false" in settings
