"What every notebook and module keeps to (CONTRIBUTING.md), and what a user gets."

import ast
import configparser
import graphlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdr_repro.study.runner import preflight

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
MODULES = sorted(p for p in (ROOT / "mdr_repro").rglob("*.py") if p.name != "_modidx.py")
EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "experiments"]
SETTINGS = configparser.ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini")
names = dict(ids=lambda p: p.relative_to(ROOT).as_posix())


def read(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def code_cells(notebook):
    return [source(c) for c in read(notebook)["cells"] if c["cell_type"] == "code"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The project's sources without git, in another place."
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "mdr_repro"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in (
        "settings.ini",
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
    ):
        shutil.copy(ROOT / name, folder)
    return folder


def tool(name, folder):
    run = subprocess.run(
        [Path(sys.executable).parent / name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr


def differing(folder, copied, pattern):
    "Files that are not the same in both places, or only in one."
    here, there = (
        {
            p.relative_to(f).as_posix(): p.read_bytes()
            for p in f.rglob(pattern)
            if "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts
        }
        for f in (folder, copied)
    )
    return sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))


def test_the_module_is_what_the_notebooks_export(copy):
    for module in (copy / "mdr_repro").rglob("*.py"):
        module.unlink()
    (copy / "mdr_repro" / "__init__.py").touch()
    tool("nbdev_export", copy)
    assert differing(ROOT / "mdr_repro", copy / "mdr_repro", "*.py") == [], "run `make export`"
    assert (copy / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()


def test_the_notebooks_are_clean(copy):
    tool("nbdev_clean", copy)
    assert differing(ROOT / "nbs", copy / "nbs", "*.ipynb") == [], "run `make clean-notebooks`"


@pytest.mark.parametrize("notebook", NOTEBOOKS, **names)
def test_a_notebook_is_readable(notebook):
    cells = read(notebook)["cells"]
    assert len(cells) <= 75, "split the page"
    assert len({c["id"] for c in cells}) == len(cells), "an id twice"
    title = next(source(c) for c in cells if c["cell_type"] == "markdown").splitlines()
    assert title[0].startswith("# ") and title[1] == "" and title[2].startswith("> "), (
        "title, empty line, one-line subtitle"
    )
    for cell in cells:
        text = source(cell)
        assert text.strip(), "an empty cell"
        if cell["cell_type"] == "code" and re.match(r"#\| export", text):
            assert len(text.splitlines()) <= 40, text.splitlines()[1]
        if cell["cell_type"] == "code":
            assert not re.search(r"^\s*from \S+ import \*", text, re.M)
        if cell["cell_type"] == "markdown":
            assert not re.search(r"^###", text, re.M), "headings not deeper than ##"
        assert not any(o.get("output_type") == "error" for o in cell.get("outputs", []))


@pytest.mark.parametrize(
    "notebook", [p for p in NOTEBOOKS if any("#| export" in c for c in code_cells(p))], **names
)
def test_an_exporting_notebook_checks_itself(notebook):
    cells = code_cells(notebook)
    assert cells[0].startswith("#| default_exp ")
    assert any(
        re.search(r"\b(test_\w+\(|assert\b|check_\w+\()", c)
        for c in cells
        if not c.startswith("#| export")
    )


@pytest.mark.parametrize("notebook", EXPERIMENTS, **names)
def test_an_experiment_can_be_run_by_papermill(notebook):
    values = preflight(notebook)
    assert set(values) >= {"profile", "seeds", "device", "data_root", "results_root", "max_minutes"}
    assert values["profile"] == "smoke" and values["device"] == "cpu"
    cells = read(notebook)["cells"]
    assert cells[0]["cell_type"] == "raw" and "skip_exec: true" in source(cells[0]), (
        "nbdev_test would execute it"
    )
    at = next(i for i, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", []))
    assert source(cells[at + 1]).strip() == "check_parameters(globals())", (
        "papermill alone would take a misspelt parameter"
    )
    before = {
        n.id
        for c in cells[:at]
        if c["cell_type"] == "code"
        for n in ast.walk(ast.parse(source(c)))
        if isinstance(n, ast.Name)
    }
    assert not before & set(values), "a parameter is used before it is set"


# the road: a notebook, and the module it exports, uses only what stands above it
ROAD = (
    "core method losses models fast clips readers training measuring paper study report use".split()
)
EARLIER = {
    ("core.plotting", "skeleton"),
    ("mdrgcn", "fast.temporal"),
    ("mdrgcn", "fast.folded"),
    ("models.ctr_gcn", "fast.graph"),
    ("models.ctr_gcn", "fast.temporal"),
}


def module_name(path):
    return (
        ".".join(path.relative_to(ROOT / "mdr_repro").with_suffix("").parts).removesuffix(
            ".__init__"
        )
        or "__init__"
    )


def places():
    "Module -> (room, notebook): where it stands on the road."
    found = {}
    for i, room in enumerate(ROAD):
        for notebook in sorted((ROOT / "nbs" / room).glob("*.ipynb")):
            named = re.match(r"#\| default_exp (\S+)", code_cells(notebook)[0])
            if named:
                found[named[1].removesuffix(".__init__")] = (i, notebook.name)
    return found


PLACES = places()


def imported(path):
    "Modules of the package that a module imports, anywhere in it."
    known, package, found = (
        set(map(module_name, MODULES)),
        path.relative_to(ROOT).parent.parts,
        set(),
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = [*package[: len(package) - node.level + 1]] if node.level else []
        full = ".".join([*base, *([node.module] if node.module else [])])
        if full.split(".")[0] != "mdr_repro":
            continue
        inner = full.partition(".")[2]
        found |= {
            f"{inner}.{a.name}".lstrip(".")
            for a in node.names
            if f"{inner}.{a.name}".lstrip(".") in known
        } or {inner}
    return found - {""}


@pytest.mark.parametrize("module", [m for m in MODULES if m.read_text().strip()], **names)
def test_a_module_imports_only_what_stands_before_it(module):
    name = module_name(module)
    if name == "__init__":
        return
    late = {other for other in imported(module) - {name} if PLACES[other] >= PLACES[name]}
    assert {(name, other) for other in late} <= EARLIER, f"{name} must not know {late}"


def test_every_room_is_on_the_road():
    rooms = {p.parent.name for p in NOTEBOOKS if p.parent != ROOT / "nbs"}
    assert rooms == {*ROAD, "experiments"}
    assert all(p.name[:2].isdigit() for p in NOTEBOOKS if p.parent.name in ROAD), (
        "a number is a place on the road"
    )


def test_no_two_modules_import_each_other():
    graph = {module_name(m): imported(m) - {module_name(m)} for m in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def requirement_names(text):
    return {
        re.split(r"[<>=!~ ;\[]", line.strip())[0].lower().replace("_", "-")
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    }


def test_the_lock_has_everything_with_its_hash_and_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "index-url" not in lock
    entries = re.findall(
        r"^([A-Za-z0-9._-]+)==.*\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", lock, re.M
    )
    locked = {name.lower().replace("_", "-") for name, _ in entries}
    assert len(entries) == len(re.findall(r"^[A-Za-z0-9]", lock, re.M)), "an entry without a hash"
    wanted = requirement_names((ROOT / "requirements.in").read_text())
    assert wanted <= locked, wanted - locked
    cfg = SETTINGS["DEFAULT"]
    declared = requirement_names(
        "\n".join(
            " ".join(
                cfg[k] for k in ("requirements", "reproduce_requirements", "dev_requirements")
            ).split()
        )
    )
    assert declared - {"torch"} <= wanted, declared - wanted


def test_settings_keep_what_the_notebooks_need():
    cfg = SETTINGS["DEFAULT"]
    assert (
        cfg["allowed_cell_metadata_keys"] == "tags" and cfg["allowed_metadata_keys"] == "papermill"
    )
    assert (
        cfg["update_pyproject"] == "False"
        and cfg["tst_flags"].split() == ["gpu", "slow"]
        and cfg["clear_all"] == "False"
    )


def test_contributing_names_the_make_targets():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    assert (
        set(re.findall(r"^\| `make ([a-z-]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M))
        == targets
    )
    assert targets == set(re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split())


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, **names)
def test_links_lead_somewhere(page):
    for address in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in address or (page.parent / address).exists(), address


def test_the_front_page_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110


def test_the_readmes_example_runs():
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    space = {}
    exec(compile(block, "README.md", "exec"), space)
    assert space["loss"].isfinite() and space["predicted"].shape == space["y"].shape
    assert len(block.strip().splitlines()) <= 16


def test_nothing_names_a_machine():
    private = re.compile(r"/root/|/home/\w|/Users/\w|/tmp/\w|/work/\w|https?://\S+@")
    files = [
        *NOTEBOOKS,
        *MODULES,
        *(
            ROOT / n
            for n in (
                *(p.relative_to(ROOT) for p in PAGES),
                "SECURITY.md",
                "Makefile",
                "settings.ini",
                "setup.py",
                "requirements.in",
                "requirements.lock",
            )
        ),
    ]
    assert [f.name for f in files if private.search(f.read_text(encoding="utf-8"))] == []


BLOCKED = """
import importlib, pkgutil, sys
blocked = {
    "nbdev", "execnb", "fastcore", "ghapi", "IPython", "ipykernel", "papermill", "nbformat",
    "nbclient", "nbconvert", "jupyter_client", "jupyter_core", "notebook", "pytest", "distributed",
    "dask", "hypothesis", "ruff",
}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked: raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Refuse())
import mdr_repro
assert mdr_repro.__file__.startswith(sys.argv[1]), mdr_repro.__file__
found = [m.name for m in pkgutil.walk_packages(mdr_repro.__path__, "mdr_repro.")]
for name in found:
    if not name.endswith("_modidx"): importlib.import_module(name)
print(len(found))
"""


def test_a_wheel_holds_all_modules_and_needs_no_notebook_tools(copy, tmp_path):
    build = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            tmp_path / "dist",
            copy,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert build.returncode == 0, build.stderr + build.stdout
    [wheel] = (tmp_path / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    shutil.unpack_archive(wheel, installed, "zip")
    for kind in ("*.py", "assets/*"):
        here = {p.relative_to(copy).as_posix() for p in (copy / "mdr_repro").rglob(kind)}
        there = {p.relative_to(installed).as_posix() for p in (installed / "mdr_repro").rglob(kind)}
        assert here == there and here
    run = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1])\n" + BLOCKED,
            str(installed),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= len(MODULES) - 1
    said = (next(installed.glob("*.dist-info")) / "METADATA").read_text()
    always = [
        line
        for line in said.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert not any(
        re.search(r"nbdev|papermill|ipykernel|fastcore|jupyter", line) for line in always
    )
    assert (
        "mdr-repro = mdr_repro.use.command_line:main"
        in (next(installed.glob("*.dist-info")) / "entry_points.txt").read_text()
    )
