"""Every relative link leads to a tracked file and heading, and every page of docs/ is in both tables of contents."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from helpers import links
from helpers.paths import ROOT

FILES = set(
    subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
)
DOCUMENTS = sorted(name for name in FILES if name.endswith(".md") and (ROOT / name).is_file())
GENERATED = ("bench.md", "table.md")
"""Results of a command beside their logs, which other pages link."""
PAGES = [name for name in DOCUMENTS if name.startswith("docs/") and Path(name).name not in GENERATED]
CONTENTS = ROOT / "docs" / "README.md"
SITE = ROOT / "mkdocs.yml"


def pages_in_contents() -> list[str]:
    """The pages that docs/README.md links, in its order."""
    return [f"docs/{target}" for target in links.targets(CONTENTS.read_text()) if target.endswith(".md")]


def pages_in_navigation() -> list[str]:
    """The pages in the navigation of the site, in its order."""
    _, _, navigation = SITE.read_text().partition("\nnav:\n")
    return [f"docs/{page}" for page in re.findall(r"^ +- .*?([\w/]+\.md)$", navigation, re.MULTILINE)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_and_picture_exists_in_git(name: str) -> None:
    wrong = list(links.broken(ROOT / name, ROOT, FILES))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_in_both_tables_of_contents(name: str) -> None:
    assert name in [*pages_in_contents(), "docs/README.md"], "docs/README.md has no line for this page"
    assert name in pages_in_navigation(), "the navigation in mkdocs.yml has no line for this page"


def test_both_tables_of_contents_have_the_same_order() -> None:
    assert pages_in_navigation() == ["docs/README.md", *pages_in_contents()]
    assert len(pages_in_contents()) > 20


def test_generated_results_are_no_pages_of_the_navigation() -> None:
    left_out = re.search(r"^not_in_nav: \|\n((?:  .*\n)+)", SITE.read_text(), re.MULTILINE)
    assert left_out and set(left_out[1].split()) == set(GENERATED)
    assert any(fnmatch(name, "docs/*/bench.md") for name in DOCUMENTS)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](b.md#second-part)", []),
        ("[a](b.md#c--d) and [e](b.md#f_g-of-h)", []),
        ("``[a](none.md)`` and `code over\n[two](none.md) lines` and [`b`](b.md)", []),
        ("[`a`](none.md)", ["none.md: no such file in git"]),
        ("[up](#top) [out](https://example.org/x.md) `[code](none.md)`", []),
        ("```\n[code](none.md)\n```\n~~~\n```\n[code](none.md)\n~~~\n![p](p/p.png)", []),
        ("[a](none.md)", ["none.md: no such file in git"]),
        ("![a](p/none.png)", ["p/none.png: no such file in git"]),
        ("[![a](p/none.png)](b.md)", ["p/none.png: no such file in git"]),
        ("[a]: none.md", ["none.md: no such file in git"]),
        ('<img src="none.png">', ["none.png: no such file in git"]),
        ("[a](b.md#none)", ["b.md#none: docs/b.md has no heading #none"]),
        ("[a](b.md#in-code)", ["b.md#in-code: docs/b.md has no heading #in-code"]),
        ("[a](#none)", ["#none: docs/a.md has no heading #none"]),
        ("[a](p)", ["p: a folder, which the site cannot open; name a file in it"]),
        ("[a](../LICENSE)", ["../LICENSE: outside of docs/, where the site cannot follow"]),
        ("[a](../../x.md)", ["../../x.md: outside of the repository"]),
    ],
)
def test_a_link_that_leads_nowhere_is_found(text: str, wrong: list[str], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "a.md"
    page.parent.mkdir()
    page.write_text(f"# Top\n\n{text}\n")
    (tmp_path / "docs" / "b.md").write_text(
        "# B\n\n## Second part\n\n## C & D\n\n## `f_g` of [H](a.md)?\n\n```\n# In code\n```\n"
    )
    files = {"docs/a.md", "docs/b.md", "docs/p/p.png", "LICENSE"}
    assert list(links.broken(page, tmp_path, files)) == wrong
