"The site's pages, before Sphinx lays them out."

import importlib.util
import json
import re

import nbformat
import pytest


@pytest.fixture(scope="module")
def build():
    from conftest import ROOT

    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_notebook_is_a_page_without_machinery(build, root, tmp_path):
    build.write_pages(tmp_path)
    pages = {
        p.relative_to(tmp_path).with_suffix("").as_posix(): nbformat.read(p, as_version=4)
        for p in tmp_path.rglob("*.ipynb")
    }
    assert set(pages) == {
        p.relative_to(root / "nbs").with_suffix("").as_posix()
        for p in (root / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    }
    for name, page in pages.items():
        assert not any(
            re.search(r"^#\|", c.source, re.M) for c in page.cells if c.cell_type == "code"
        ), name
        assert not any(c.cell_type == "raw" for c in page.cells), name
    listed = [
        line
        for block in re.findall(
            r"```\{toctree\}\n.*?\n\n(.*?)\n```", pages["index"].cells[-1].source, re.S
        )
        for line in block.splitlines()
    ]
    guides = {
        p.relative_to(root / "docs").with_suffix("").as_posix()
        for p in (root / "docs").rglob("*.md")
    }
    assert len(guides) > 4 and sorted(listed) == sorted((set(pages) | guides) - {"index"})
    for name in guides:
        text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
        for address in re.findall(r"\]\(([^)#]+)", text):
            assert "://" in address or (tmp_path / name).parent.joinpath(address).exists(), (
                name,
                address,
            )


def test_exported_code_stays_on_the_page(build, root):
    page = build.page(nbformat.read(root / "nbs/method/02_cvsta.ipynb", as_version=4))
    assert any("class CVSTA" in c.source for c in page.cells)


def test_old_places_lead_on(build, root, tmp_path):
    build.write_redirects(tmp_path)
    moved = json.loads((root / "docs/moved.json").read_text())
    assert len(moved) > 60
    for old, new in moved.items():
        assert (root / f"nbs/{new}.ipynb").is_file() and not (root / f"nbs/{old}.ipynb").exists(), (
            old
        )
        [target] = re.findall(r'url=([^"]+)"', (tmp_path / f"{old}.html").read_text())
        assert (tmp_path / old).parent.joinpath(target).resolve() == (
            tmp_path / f"{new}.html"
        ).resolve()
