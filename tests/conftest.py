"What the tests share."

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "MDR_REPRO_CACHE" not in os.environ:  # converted clips of tests are nobody's
    os.environ["MDR_REPRO_CACHE"] = tempfile.mkdtemp(prefix="mdr-repro-cache-")
    atexit.register(shutil.rmtree, os.environ["MDR_REPRO_CACHE"], ignore_errors=True)
ROOT = Path(__file__).resolve().parents[1]

PARAMETERS = """profile = "smoke"  # data and schedule
seeds = 0  # runs a cell
device = "cpu"  # where
data_root = ""  # data files
results_root = "results"  # results
max_minutes = 0.0  # time limit"""


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "end_to_end: the small reproduction; `make test` runs it last"
    )
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


@pytest.fixture
def root():
    "The project's folder."
    return ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    "An empty project, and a function that puts an experiment notebook into it."
    (tmp_path / "settings.ini").touch()
    folder = tmp_path / "nbs" / "experiments"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def add(
        id,
        *later,
        parameters=PARAMETERS,
        tags=("parameters",),
        imports="import json, os, time\nfrom pathlib import Path\n"
        "from mdr_repro.study.runner import check_parameters",
    ):
        cells = [
            new_code_cell(imports),
            new_code_cell(parameters, metadata={"tags": list(tags)}),
            new_code_cell("check_parameters(globals())"),
            *map(new_code_cell, later),
        ]
        spec = {"name": "python3", "language": "python", "display_name": "python3"}
        nbformat.write(
            new_notebook(cells=cells, metadata={"kernelspec": spec}), folder / f"{id}.ipynb"
        )
        return folder / f"{id}.ipynb"

    add.root = tmp_path
    return add
