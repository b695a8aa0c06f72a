"""Random kill -9 of any process of a reproduction, then one clean finish that must give what an
undisturbed one gives.

    python tests/kill.py --kills 200 --results /tmp/kills             # all of it, an hour or more
    python tests/kill.py --kills 5 --only precision --results /tmp/kills

`whole` below the results folder is the undisturbed reproduction, `killed` the other one. A round
ends when the disturbed command comes to its end in spite of everything: its folder is compared,
thrown away, and the next round begins. kills.log has a line a kill.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
# of result.json: the clock, the disturbances, and a commit made meanwhile
MAY_DIFFER = ("seconds", "resumed", "recomputed", "files", "checksum", "git")
PATIENCE = 1800.0  # seconds after which a command hangs


# what a folder holds


def plain(value):
    "Without what the clock decides: provenance, dates, seconds."
    if isinstance(value, dict) and "Seconds" in str(value.get("column")):
        return {"row": value.get("row"), "column": value["column"]}
    if isinstance(value, dict):
        return {
            k: plain(v)
            for k, v in value.items()
            if k not in ("provenance", "timing") and "seconds" not in k
        }
    return [plain(v) for v in value] if isinstance(value, list) else value


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def runs(results):
    "Each finished run's numbers: result, history without seconds, bytes of scores and weights."
    found = {}
    for folder in (p for p in (results / "runs").glob("*") if not p.name.startswith(".")):
        result = json.loads((folder / "result.json").read_text())
        history = [
            plain(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        found[folder.name] = {
            "result": {k: v for k, v in result.items() if k not in MAY_DIFFER},
            "history": history,
            **{n: digest(folder / n) for n in ("spec.json", "scores.npz", "model.safetensors")},
        }
    return found


def tables(results):
    return {
        p.relative_to(results).as_posix(): plain(json.loads(p.read_text()))
        for p in results.glob("*/*/table.json")
    }


def names(results):
    "All files and folders but the locks, which stay."
    found = (p.relative_to(results).as_posix() for p in results.rglob("*"))
    return {n for n in found if not n.startswith("runs/.locks")}


def finished(results):
    return {p.parent.name: digest(p) for p in results.glob("runs/[!.]*/result.json")}


def where(a, b):
    "The first place in which two values differ."
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next(f"{k}.{where(a[k], b[k])}" for k in a if a[k] != b[k])
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next(f"{i}.{where(x, y)}" for i, (x, y) in enumerate(zip(a, b)) if x != y)
    return f"value: {str(a)[:60]}, not {str(b)[:60]}"


def differences(killed, whole):
    "A sentence for everything in which two reproductions differ."
    said = []
    for what, read in (("table", tables), ("run", runs)):
        a, b = read(killed), read(whole)
        said += [f"{what} {id} is missing" for id in b.keys() - a.keys()] + [
            f"{what} {id} is too many" for id in a.keys() - b.keys()
        ]
        said += [
            f"{what} {id} has another {where(a[id], b[id])}"
            for id in a.keys() & b.keys()
            if a[id] != b[id]
        ]
    said += [f"left over: {n}" for n in sorted(names(killed) - names(whole))] + [
        f"not there: {n}" for n in sorted(names(whole) - names(killed))
    ]
    return said


# processes


def family(process):
    "The command and all that it has started, with the part each plays."
    try:
        members = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    except psutil.NoSuchProcess:
        return {}
    return {p: role(p, process.pid) for p in members}


def role(p, command):
    if p.pid == command:
        return "command"
    try:
        words = p.cmdline()
    except psutil.Error:
        return "other"
    return next(
        (
            name
            for name, word in (
                ("kernel", "ipykernel_launcher"),
                ("papermill", "papermill"),
                ("worker", "work"),
            )
            if word in words
        ),
        "other",
    )


def living(p):
    try:
        return p.is_running() and p.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(members, seconds=60):
    "Wait until none of these is left; AssertionError where one stays."
    end = time.monotonic() + seconds
    while left := [p for p in members if living(p)]:
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.1)


class Hunt:
    "Start the command, kill, start again."

    def __init__(self, command, results, root=ROOT, seed=0, say=print, environment=None):
        self.command, self.results, self.root, self.random, self.say = (
            command,
            Path(results),
            root,
            random.Random(seed),
            say,
        )
        # one thread: the same sums wherever a run is trained
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.process, self.members, self.kills, self.roles, self.had = None, {}, 0, Counter(), {}

    def start(self):
        self.results.mkdir(parents=True, exist_ok=True)
        with open(self.results.parent / f"{self.results.name}.log", "a") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.began, self.members = time.monotonic(), {}

    def look(self):
        "Note who is there and what is finished; what was finished must still be."
        self.members |= family(self.process)
        now = finished(self.results)
        for id, content in self.had.items():
            assert now.get(id) == content, f"run {id} was finished and is lost or changed"
        self.had |= now

    def wait(self, seconds, until=lambda: False):
        "Whether the command still runs after so long, or when something has happened."
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None and not until():
            self.members |= family(self.process)
            time.sleep(0.01)
        return self.process.poll() is None

    def writing(self):
        return any(self.results.rglob("*.tmp"))

    def kill(self, aimed):
        """kill -9 of one process; each part that is there is as likely as any other, and a writer
        likelier where a file is being written."""
        self.look()
        present = {p: r for p, r in family(self.process).items() if living(p)}
        if not present:
            return
        parts = sorted({r for r in present.values() if r != "other"})
        part = (
            self.random.choice([r for r in parts if r in ("worker", "kernel")] or parts)
            if aimed
            else self.random.choice(parts)
        )
        victim = self.random.choice(
            sorted((p for p, r in present.items() if r == part), key=lambda p: p.pid)
        )
        epochs = sum(
            len(p.read_text().splitlines())
            for p in self.results.glob("runs/.partial/*/metrics.jsonl")
        )
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return
        self.kills += 1
        self.roles[part] += 1
        self.say(
            f"kill {self.kills}: {part}{', while a file was written' if aimed else ''},"
            f" {time.monotonic() - self.began:.1f} s after the start; {len(self.had)} runs"
            f" finished, {epochs} epochs of others"
        )

    def end(self):
        "Wait for the command to end, and for all that it had started; its status."
        assert not self.wait(PATIENCE), "the command hangs"
        status = self.process.wait()
        gone(self.members)
        self.look()
        return status

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def undisturbed(hunt):
    "The command from beginning to end; its seconds."
    hunt.start()
    status = hunt.end()
    assert status == 0, (
        f"the undisturbed command ended with status {status}; see {hunt.results.name}.log"
    )
    return time.monotonic() - hunt.began


def hunt_down(hunt, whole, kills, longest):
    "So many kills, then one clean finish; the number of rounds."
    rounds = 0
    while hunt.kills < kills:
        hunt.start()
        while hunt.kills < kills:
            aimed = hunt.random.random() < 0.3
            if not hunt.wait(hunt.random.uniform(0, longest)):
                break
            if aimed and not hunt.wait(longest, hunt.writing):
                break
            hunt.kill(aimed)
            hunt.wait(0.2)
        if hunt.kills < kills and hunt.end() == 0:
            rounds += 1
            check(hunt, whole)
            shutil.rmtree(hunt.results)
            hunt.had = {}
    if hunt.process and hunt.process.poll() is None:
        hunt.end()
    gone(hunt.members)
    undisturbed(hunt)
    check(hunt, whole)
    return rounds + 1


def check(hunt, whole):
    said = differences(hunt.results, Path(whole))
    assert not said, "; ".join(said)
    results = map(Path.read_text, hunt.results.glob("runs/[!.]*/result.json"))
    resumed = sum(json.loads(text)["resumed"] for text in results)
    hunt.say(
        f"the same as the undisturbed one: {len(tables(hunt.results))} tables, {len(hunt.had)}"
        f" runs, {resumed} times resumed; nothing left over"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="a folder of its own"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=["table_02", "precision", "figure_03"],
        metavar="ID",
        help="experiments (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument(
        "--random", type=int, default=0, metavar="N", help="seed of moments and victims"
    )
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    log, began = open(args.results / "kills.log", "a"), time.monotonic()

    def say(line):
        print(line, flush=True)
        print(line, file=log, flush=True)

    def hunt(name):
        results = args.results.resolve() / name
        return Hunt(
            [
                sys.executable,
                "-c",
                "from mdr_repro.use.command_line import main; raise SystemExit(main())",
                "reproduce",
                "--profile",
                "smoke",
                "--only",
                *args.only,
                "--seeds",
                str(args.seeds),
                "--jobs",
                str(args.jobs),
                "--results-root",
                str(results),
            ],
            results,
            seed=args.random,
            say=say,
        )

    for name in ("whole", "killed"):
        shutil.rmtree(args.results / name, ignore_errors=True)
    seconds = undisturbed(hunt("whole"))
    say(f"undisturbed: {seconds:.0f} s, {len(finished(args.results / 'whole'))} runs")
    prey = hunt("killed")
    try:
        rounds = hunt_down(prey, args.results / "whole", args.kills, seconds / 3)
    finally:
        prey.stop()
    say(
        f"{prey.kills} kills ({', '.join(f'{n} {r}' for r, n in sorted(prey.roles.items()))}) in"
        f" {rounds} rounds and {(time.monotonic() - began) / 60:.0f} min: the same numbers, no lost"
        " run, nothing left over"
    )


if __name__ == "__main__":
    main()
