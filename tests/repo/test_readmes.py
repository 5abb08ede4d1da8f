"""README.zh-CN.md says the same as README.md: the same code, links and numbers, section by section."""

from __future__ import annotations

import re

import pytest

from helpers.paths import ROOT

ENGLISH, CHINESE = (
    re.split(r"^## ", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name in ("README.md", "README.zh-CN.md")
)


def test_both_have_the_same_sections() -> None:
    assert len(ENGLISH) == len(CHINESE) > 5


@pytest.mark.parametrize("number", range(len(ENGLISH)))
@pytest.mark.parametrize(
    "part",
    [
        pytest.param(r"^```[^\n]*\n.*?^```$", id="code"),
        pytest.param(r"\]\((?!README)([^)]*)\)", id="links"),
        pytest.param(r"(?<![\w.])\d[\d,.]*\d|(?<=\D)\d+(?=%)", id="numbers"),
    ],
)
def test_a_section_has_the_same_parts(part: str, number: int) -> None:
    english, chinese = (re.findall(part, text[number], re.MULTILINE | re.DOTALL) for text in (ENGLISH, CHINESE))
    assert sorted(english) == sorted(chinese)
