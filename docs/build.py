"Build the site: notebooks -> _docs/source -> _docs/html. Run by `make docs`."

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
MATHJAX = "3.2.2"
MATHJAX_SHA256 = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"
ROOMS = {
    "howto": "How to",
    "core": "Core",
    "method": "Method",
    "losses": "Losses",
    "models": "Networks",
    "fast": "The same, faster",
    "clips": "Clips",
    "readers": "Readers",
    "training": "Training",
    "measuring": "Measuring",
    "paper": "The paper as data",
    "study": "The study",
    "report": "Report",
    "use": "Use",
    "experiments": "Experiments",
}
MOVED = ROOT / "docs" / "moved.json"  # old place of a notebook -> its place now
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


def page(notebook):
    "A notebook as a page: its hidden cells and nbdev's directives are for machines."
    hidden = [
        c
        for c in notebook.cells
        if c.cell_type == "raw" or re.match(r"#\| *(hide|default_exp)\b", c.source)
    ]
    notebook.cells = [c for c in notebook.cells if c not in hidden]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
    return notebook


def contents(names):
    "The site's table of contents as one cell: where to begin, then a list for each room."
    rooms = {"Begin here": sorted(n for n in names if "/" not in n and n != "index")[::-1]}
    for room, title in ROOMS.items():
        rooms[title] = sorted(n for n in names if n.startswith(f"{room}/"))
    lists = [
        "```{toctree}\n:caption: " + title + "\n:hidden:\n\n" + "\n".join(pages) + "\n```"
        for title, pages in rooms.items()
    ]
    return new_markdown_cell("\n\n".join(lists))


def how_to(path):
    """A page of docs/ for the site, whose folders are those of nbs/; what is no page there is named
    only."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\[([^\]]+)\]\((?:\.\./)+[A-Z]+\.md\)", r"\1", text)
    return re.sub(r"\]\(((?:\.\./)*)\.\./nbs/", r"](\1", text)


def source_of(path):
    "An experiment as it was last executed on real clips, where that is kept; else the notebook."
    executed = ROOT / "results" / "replica" / path.stem / path.name
    return executed if path.parent.name == "experiments" and executed.is_file() else path


def write_pages(target):
    "All pages below `target`."
    notebooks = {
        p.relative_to(ROOT / "nbs"): p
        for p in sorted((ROOT / "nbs").rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in p.parts
    }
    guides = {p.relative_to(ROOT / "docs"): p for p in sorted((ROOT / "docs").rglob("*.md"))}
    names = [p.with_suffix("").as_posix() for p in (*notebooks, *guides)]
    for relative, path in guides.items():
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        (target / relative).write_text(how_to(path), encoding="utf-8")
    for relative, path in notebooks.items():
        notebook = page(nbformat.read(source_of(path), as_version=4))
        if relative.name == "index.ipynb":
            notebook.cells.append(contents(names))
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target / relative)


def write_redirects(site):
    "A page at the old place of each notebook that was moved leads on to where it is now."
    for old, new in json.loads(MOVED.read_text(encoding="utf-8")).items():
        page = site / f"{old}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.relpath(site / f"{new}.html", page.parent)).as_posix()
        head = (
            '<meta charset="utf-8"><meta http-equiv="refresh" content="0;'
            f' url={target}"><title>Moved</title>'
        )
        page.write_text(
            f'<!doctype html>{head}<p>This page is now <a href="{target}">{new}</a>.</p>\n',
            encoding="utf-8",
        )


def fetch_mathjax(target, cache):
    "One file of MathJax from npm, checked."
    if not target.is_file():
        if not shutil.which("npm"):
            raise SystemExit("npm is not installed; the site's formulas need MathJax from there")
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", f"mathjax@{MATHJAX}", "--pack-destination", str(cache)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with tarfile.open(cache / f"mathjax-{MATHJAX}.tgz") as archive:
            content = archive.extractfile("package/es5/tex-svg-full.js").read()
        found = hashlib.sha256(content).hexdigest()
        if found != MATHJAX_SHA256:
            raise SystemExit(f"MathJax {MATHJAX} from npm is not the known file: sha256 {found}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def main():
    site = ROOT / "_docs"
    pages = site / "source"
    shutil.rmtree(pages, ignore_errors=True)
    write_pages(pages)
    shutil.copy(ROOT / "docs" / "conf.py", pages)
    fetch_mathjax(pages.parent / "cache" / "mathjax.js", site / "cache")
    (pages / "_static").mkdir()
    shutil.copy(site / "cache" / "mathjax.js", pages / "_static")
    shutil.copy(ROOT / "docs" / "site.css", pages / "_static")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
        "-q",
        str(pages),
        str(site / "html"),
    ]
    status = subprocess.run(command).returncode
    if not status:
        write_redirects(site / "html")
    raise SystemExit(status)


if __name__ == "__main__":
    main()
