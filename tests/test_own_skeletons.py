"The page on one's own skeletons, followed to the letter in an empty folder."

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[1] / "nbs" / "readers" / "13_own_skeletons.ipynb"


def section(title):
    "The cells below a heading, up to the next one."
    cells, found = nbformat.read(PAGE, as_version=4).cells, []
    inside = False
    for cell in cells:
        if cell.cell_type == "markdown" and (heads := re.findall(r"^## (.*)$", cell.source, re.M)):
            inside = title in heads
        if inside:
            found.append(cell)
    assert found, f"the page has no section {title!r}"
    return found


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder in which every line of the page was run as it stands there, and what the shell said
    to each block."""
    folder = tmp_path_factory.mktemp("person")
    [code] = [
        c.source
        for c in section("Make the files")
        if c.cell_type == "code" and "np.savez" in c.source
    ]
    blocks = [
        b
        for c in section("From the files to a trained network")
        for b in re.findall(r"```sh\n(.*?)```", c.source, re.S)
    ]
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "MDR_REPRO_CACHE": str(folder / "cache"),
    }
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, check=True, timeout=120)
    script = "".join(f"echo '=== {i}'\n{block}" for i, block in enumerate(blocks))
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return folder, blocks, re.split(r"^=== \d+\n", run.stdout, flags=re.M)[1:]


def said(followed, command):
    "What was printed by the block that holds a command."
    _, blocks, outputs = followed
    [i] = [i for i, b in enumerate(blocks) if command in b]
    return outputs[i]


def test_the_page_uses_every_command(followed):
    words = {w for b in followed[1] for w in re.findall(r"^mdr-repro ((?:data )?\w+)", b, re.M)}
    assert words >= {"data verify", "data show", "train", "predict", "show"}


def test_the_files_are_sound(followed):
    out = said(followed, "data verify")
    assert "dog/clips.npz: sound; sha256 of its content" in out
    assert "40 clips" in out and "4 classes" in out and "dog12" in out
    assert re.search(r"^train +28 ", out, re.M) and re.search(r"^test +12 ", out, re.M)


def test_the_network_learns_the_actions(followed):
    top1 = float(re.search(r"top-1 ([0-9.]+) %", said(followed, "mdr-repro train"))[1])
    assert top1 >= 50  # of four actions, chance is 25
    [run] = (followed[0] / "results" / "runs").glob("*/result.json")
    assert run.parent.name in said(followed, "mdr-repro train")


def test_old_and_new_clips_are_predicted(followed):
    folder, out = followed[0], said(followed, "mdr-repro predict")
    assert set(re.findall(r"\b(?:walk|sit down|dig|wag)\b", out)) == {
        "walk",
        "sit down",
        "dig",
        "wag",
    }
    with np.load(folder / "dog" / "clips.npz") as z:
        clips = len(z["lengths"])
    assert sum(f"clip_{i} " in out for i in range(clips)) == clips
    assert re.search(r"^in the park +\w[\w ]* [01]\.\d", out, re.M) and re.search(
        r"^at the lake +\w[\w ]* [01]\.\d", out, re.M
    )


def test_a_clip_is_shown(followed):
    page = (followed[0] / "lake.html").read_text()
    assert "<html" in page.lower() and "at the lake" in page and "hind paw" in page
    assert not re.search(r"""(?:src|href)=["']?https?://""", page), "the page has to stand alone"
