"The page of results says what the files say, and nothing in a file becomes markup."

import html
import json
import re
from html.parser import HTMLParser

import pytest

from mdr_repro.measuring.statistics import mean_interval
from mdr_repro.paper.tables import CLAIMS, FIGURES, TABLES, printed_value
from mdr_repro.report import report as report_module
from mdr_repro.report.report import write_report
from mdr_repro.report.report_page import symbols

VOID = {"meta", "img"}


class Page(HTMLParser):
    "A tree of the page; fails where a tag is not closed in order."

    def __init__(self, path):
        super().__init__()
        self.root = {"tag": "", "attrs": {}, "parts": []}
        self.open = [self.root]
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [self.root], "something is left open"

    def handle_starttag(self, tag, attrs):
        node = {"tag": tag, "attrs": dict(attrs), "parts": []}
        self.open[-1]["parts"].append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1]["parts"].append({"tag": tag, "attrs": dict(attrs), "parts": []})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        self.open[-1]["parts"].append(data)

    def all(self, tag, under=None, **attrs):
        for part in (under or self.root)["parts"]:
            if isinstance(part, str):
                continue
            if part["tag"] == tag and all(
                value in (part["attrs"].get(name.rstrip("_")) or "").split()
                for name, value in attrs.items()
            ):
                yield part
            yield from self.all(tag, part, **attrs)

    def section(self, id):
        [found] = self.all("section", id=id)
        return found


def text(node):
    return "".join(part if isinstance(part, str) else text(part) for part in node["parts"])


def origin(*runs, seconds=60.0):
    return {
        "revision": "ab" * 20,
        "dirty": False,
        "lock_sha256": "cd" * 32,
        "torch": "2",
        "python": "3",
        "device": "a processor",
        "made_with": [],
        "data": {"clips": "ef" * 32},
        "runs": list(runs),
        "timing": {"date_utc": "2026-01-01T00:00:00+00:00", "run_seconds": seconds},
    }


def cell(row, column, printed, values, runs=("0123456789ab",), note=""):
    i = mean_interval(values) if values else None
    return {
        "row": row,
        "column": column,
        "slot": "fsd10",
        "printed": printed,
        "paper": printed_value(printed),
        "values": {str(k): v for k, v in enumerate(values)},
        "difference": None,
        "measured": i and {"mean": i.mean, "low": i.low, "high": i.high, "n": i.n},
        "runs": list(runs),
        "note": note,
    }


def table(id, cells, claims=(), runs=("0123456789ab",), **more):
    return {
        "id": id,
        "title": f"{id} measured",
        "profile": "smoke",
        "cells": cells,
        "claims": list(claims),
        "provenance": origin(*runs),
        **more,
    }


def measured(id, level=-20.0):
    "All printed cells of a table, measured by two seeds."
    found = [
        (r.name, column, value)
        for r in TABLES[id].rows
        for column, value in r.results.items()
        if printed_value(value) is not None
    ]
    return [
        cell(
            row,
            column,
            value,
            [printed_value(value) + level + k / 7, printed_value(value) + level + k / 5 + 1],
        )
        for k, (row, column, value) in enumerate(found)
    ]


def put(root, id, content, profile="smoke", name="table.json"):
    (root / profile / id).mkdir(parents=True, exist_ok=True)
    (root / profile / id / name).write_text(json.dumps(content))


def failed(root, id, error, profile="smoke"):
    put(
        root,
        id,
        {
            "metadata": {},
            "cells": [
                {
                    "execution_count": 3,
                    "outputs": [{"output_type": "error", "ename": "DataError", "evalue": error}],
                }
            ],
        },
        profile,
        f"{id}.failed.ipynb",
    )


def set_text(name):
    "A name as it stands on the page, without what lowers and raises letters."
    return html.unescape(re.sub(r"<[^>]*>", "", symbols(name)))


def rows_of(page, id):
    "The first table of a section as lists of texts, head first; numbers of one cell are apart."
    grid = next(page.all("table", page.section(id)))
    return [
        [
            [text(d) for d in page.all("div", c)] or [text(c)]
            for c in tr["parts"]
            if not isinstance(c, str)
        ]
        for tr in page.all("tr", grid)
    ]


@pytest.mark.parametrize("id", [i for i in TABLES if i != "table_07"])
@pytest.mark.parametrize("run", [True, False], ids=["run", "not run"])
def test_a_table_is_set_as_in_the_paper(tmp_path, id, run):
    if run:
        put(tmp_path, id, table(id, measured(id)))
    page = Page(write_report(tmp_path, "smoke"))
    head, *rows = rows_of(page, id)
    paper, names = TABLES[id], [h[0] for h in head]
    columns = [*map(set_text, paper.setting_columns), *map(set_text, paper.columns)]
    assert names[-len(columns) :] == columns and len(names) - len(columns) in (0, 1)
    for printed, row in zip(paper.rows, rows, strict=False):
        settings = [c[0] for c in row[: len(names) - len(paper.columns)]]
        assert settings[-len(paper.setting_columns) :] == [
            set_text(s) for s in printed.settings.values()
        ]
        assert set_text(printed.name) in settings, "what the claims call the row stands in it"
        results = [
            c[0].strip("\u2007") for c in row[len(settings) :] if len(c) == 2 and c[0] != "\u200b"
        ]  # upper line; the line above an interval is empty
        assert results == list(printed.results.values())


def test_one_number_changed_is_one_number_changed(tmp_path):
    cells = measured("table_02")
    cells[1]["values"]["0"] = 73.11
    put(tmp_path, "table_02", table("table_02", cells))
    put(tmp_path, "table_08", table("table_08", measured("table_08")))
    path = write_report(tmp_path, "smoke")
    before, before_marked = path.read_text(), path.with_name("index.md").read_text()
    assert "73.12" not in before and before_marked.count("73.11") == 1
    cells[1]["values"]["0"] = 73.12
    put(tmp_path, "table_02", table("table_02", cells))
    after = write_report(tmp_path, "smoke").read_text()
    assert path.with_name("index.md").read_text() == before_marked.replace("73.11", "73.12")
    assert '<div class="m">73.12, ' in after
    assert re.sub(r'cx="[^"]*"', "", after) == re.sub(r'cx="[^"]*"', "", before).replace(
        "73.11", "73.12"
    ), "nothing else but the dot's place"


def test_a_dot_stands_where_its_number_is(tmp_path):
    put(tmp_path, "table_05", table("table_05", measured("table_05", level=-30)))
    page = Page(write_report(tmp_path, "smoke"))
    grid = next(page.all("table", page.section("table_05")))
    [foot] = page.all("tfoot", grid)
    ticks = [
        (float(t["attrs"]["x"]), float(t["attrs"]["y"]), float(text(t)))
        for t in page.all("text", foot)
    ]

    def place(value, y):  # by the tick labels of that line
        (x0, _, v0), *_, (x1, _, v1) = [t for t in ticks if (t[1] > 20) == (y > 20)]
        return x0 + (value - v0) * (x1 - x0) / (v1 - v0)

    lengths = [
        (b[0] - a[0]) / (b[2] - a[2]) for a, b in ((ticks[0], ticks[1]), (ticks[-2], ticks[-1]))
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.02), "a point is as wide on both scales"
    rows = [tr for tr in page.all("tr", next(page.all("tbody", grid)))]
    for tr, c in zip(rows, measured("table_05", level=-30)):
        [svg] = page.all("svg", tr)
        dots, [diamond] = list(page.all("circle", svg)), page.all("path", svg, class_="p")
        for dot, value in zip(dots, c["values"].values(), strict=True):
            assert float(dot["attrs"]["cx"]) == pytest.approx(place(value, 30), abs=1.5)
        assert float(re.match(r"M([\d.]+)", diamond["attrs"]["d"])[1]) + 5 == pytest.approx(
            place(c["paper"], 10), abs=1.5
        )


def test_the_papers_clips_share_one_scale_and_need_no_warning(tmp_path):
    for profile in ("paper", "smoke"):
        put(tmp_path, "table_06", table("table_06", measured("table_06", level=0.5)), profile)
    page, other = (Page(write_report(tmp_path, profile)) for profile in ("paper", "smoke"))
    scales = [
        [text(d) for d in p.all("div", next(p.all("tfoot", p.section("table_06"))))]
        for p in (page, other)
    ]
    assert len(scales[0]) == 1 and scales[0][0].startswith("◇ ●") and len(scales[1]) == 2
    assert not list(page.all("p", class_="warning")) and "Made-up clips" in text(
        next(other.all("p", class_="warning"))
    )
    put(tmp_path, "table_06", table("table_06", measured("table_06", level=0.5)), "replica")
    assert "not the paper's clips" in text(
        next(Page(write_report(tmp_path, "replica")).all("p", class_="warning"))
    )


def test_a_failed_notebook_shows_in_place_and_is_counted(tmp_path):
    put(tmp_path, "table_02", table("table_02", measured("table_02")))
    failed(tmp_path, "table_02", "no such file")
    failed(tmp_path, "table_05", "<i>other</i>")
    page = Page(write_report(tmp_path, "smoke"))
    stale, gone = text(page.section("table_02")), text(page.section("table_05"))
    assert (
        "Stale: the notebook failed: In [3]: DataError: no such file. What follows is from an"
        " earlier run."
        in stale
        and list(page.all("circle", page.section("table_02")))
    )
    assert (
        "DataError: <i>other</i>" in gone
        and "Stale" not in gone
        and not list(page.all("i", page.section("table_05")))
    )
    assert "Failed: 2 of" in text(next(page.all("header"))) and "(Table II, Table V)" in text(
        next(page.all("header"))
    )
    cards = [text(c) for c in page.all("li", next(page.all("nav")), class_="failed")]
    assert len(cards) == 2 and "an earlier result is there" in cards[0]
    assert "Stale: the notebook failed" in (tmp_path / "smoke" / "index.md").read_text()


def test_the_page_names_the_precision_of_its_runs(tmp_path):
    made = [
        {"code": "unknown", "torch": "2", "device": "a processor", "precision": p}
        for p in ("fp32", "bf16")
    ]
    put(
        tmp_path,
        "precision",
        table("precision", [cell("bf16", "Accuracy(%)", "–", [80.0, 81.0])])
        | {"provenance": origin("0123456789ab") | {"made_with": made}},
    )
    page = Page(write_report(tmp_path, "smoke"))
    for section in ("precision", "provenance"):
        for p in ("fp32", "bf16"):
            assert f"device a processor, precision {p}" in text(page.section(section)), (section, p)
    assert (tmp_path / "smoke" / "index.md").read_text().count("precision bf16") == 2


def test_everything_of_the_paper_has_its_place(tmp_path):
    put(tmp_path, "an_own_thing", table("an_own_thing", [cell("a", "b", "–", [1.0, 2.0])]))
    page = Page(write_report(tmp_path, "smoke"))
    sections = [s["attrs"]["id"] for s in page.all("section")]
    wanted = [*TABLES, *FIGURES]
    assert sections[: len(wanted)] == wanted and {
        "an_own_thing",
        "audit",
        "systems_short",
        "precision",
        "claims",
        "provenance",
        "cost",
    } <= set(sections)
    links = [a["attrs"]["href"] for a in page.all("a", next(page.all("ul", class_="grid")))]
    assert set(links) == {f"#{s}" for s in sections} - {"#claims", "#provenance", "#cost"}
    assert {
        li["attrs"]["id"] for li in page.all("li") if li["attrs"].get("id", "").startswith("claim-")
    } == {f"claim-{c.id}" for c in CLAIMS}
    marked = (tmp_path / "smoke" / "index.md").read_text()
    for id in wanted:
        assert f"## {report_module.name_of(id)}\n" in marked


def sample(root):
    for id in ("table_01", "table_04", "table_11"):
        put(root, id, table(id, measured(id)))
    put(
        root,
        "table_07",
        table(
            "table_07",
            [
                cell("MDR-GCN", "Params (M)", "1.3", [1.98], runs=()),
                cell("MDR-GCN", "Latency (ms)", "–", [42.5], runs=()),
            ],
            runs=(),
        ),
    )
    put(
        root,
        "audit",
        table(
            "audit",
            [],
            findings=[
                {
                    "id": "a",
                    "where": "Tables I, II",
                    "says": "91",
                    "found": "92",
                    "how_sure": "very likely: b",
                    "evidence": {},
                }
            ],
        ),
    )
    put(root, "figure_05", table("figure_05", [cell("RDL", "Purity(%)", "–", [30.0, 32.0])]))
    put(root, "figure_05", {"map": {"data": {}, "provenance": origin()}}, name="figure.json")
    (root / "smoke/figure_05/map.png").write_bytes(b"p" * 1000)
    (root / "smoke/figure_05/walk.gif").write_bytes(b"g" * 1000)


def test_the_page_is_whole_and_needs_nothing_else(tmp_path):
    sample(tmp_path)
    path = write_report(tmp_path, "smoke")
    page = Page(path)
    ids = [
        n["attrs"]["id"]
        for tag in ("section", "li", "pattern")
        for n in page.all(tag)
        if "id" in n["attrs"]
    ]
    assert len(ids) == len(set(ids))
    for tag, name in (("a", "href"), ("img", "src")):
        for node in page.all(tag):
            address = node["attrs"][name]
            assert (
                address.startswith("data:image/")
                or address.removeprefix("#") in ids
                or (path.parent / address).is_file()
            ), address
    assert (
        not list(page.all("script"))
        and not list(page.all("link"))
        and not re.search(r"https?:|url\((?!#)|@import", path.read_text())
    )
    drawings = list(page.all("svg"))
    assert len(drawings) > 40
    for svg in drawings:
        [title] = page.all("title", svg)
        assert (
            text(title)
            and svg["attrs"]["aria-label"] == text(title)
            and svg["attrs"]["role"] == "img"
        )
    assert path.stat().st_size < 1_000_000


def test_counted_numbers_have_no_seeds(tmp_path):
    sample(tmp_path)
    page = Page(write_report(tmp_path, "smoke"))
    grid = text(next(page.all("table", page.section("table_07"))))
    assert "1.98" in grid and "42.50" in grid and "seed" not in grid
    assert (
        "(2 seeds)" in text(page.section("table_04"))
        and "| 1.3 | 1.98 |" in (tmp_path / "smoke/index.md").read_text()
    )


def test_what_a_file_says_is_not_markup(tmp_path):
    bad = "<script>alert('x')</script> \"|\" <b>&amp;"
    cells = [cell(bad, bad, "9.5", [1.0, 2.0]), cell("b", bad, "–", [], note=bad)]
    put(tmp_path, "systems_short", table("systems_short", cells) | {"title": bad})
    put(
        tmp_path,
        "audit",
        table(
            "audit",
            [],
            findings=[
                dict.fromkeys(("id", "where", "says", "found", "how_sure"), bad) | {"evidence": {}}
            ],
        ),
    )
    put(
        tmp_path,
        "figure_04",
        {bad.replace("/", ""): {"data": {}, "provenance": origin()}},
        name="figure.json",
    )
    failed(tmp_path, "table_09", bad)
    path = write_report(tmp_path, "smoke")
    page, marked = Page(path), path.with_name("index.md").read_text()
    assert (
        not list(page.all("script"))
        and "<script>" not in path.read_text()
        and "<script>" not in marked
    )
    assert text(page.section("systems_short")).count("alert('x')") >= 3 and bad in text(
        page.section("audit")
    )
    for line in marked.splitlines():
        if line.startswith("|") and "alert" in line:
            assert r'"\|"' in line, "a bar would end the cell"


def test_a_hundred_rows_are_fine(tmp_path):
    put(
        tmp_path,
        "systems_short",
        table(
            "systems_short",
            [
                cell(f"system {k}", c, "–", [50 + k / 3, 51 + k / 3])
                for k in range(100)
                for c in ("Accuracy(%)", "Mean class(%)", "Seconds", "More", "Still more")
            ],
        ),
    )
    path = write_report(tmp_path, "smoke")
    assert len(rows_of(Page(path), "systems_short")) == 102 and path.stat().st_size < 2_000_000


def test_large_pictures_become_links(tmp_path, monkeypatch):
    sample(tmp_path)
    images = list(Page(write_report(tmp_path, "smoke")).all("img"))
    assert [i["attrs"]["src"][:15] for i in images] == ["data:image/png;", "data:image/gif;"]
    monkeypatch.setattr(report_module, "PAGE_LIMIT", 1500)
    page = Page(write_report(tmp_path, "smoke"))
    assert len(list(page.all("img"))) == 1 and "figure_05/walk.gif" in {
        a["attrs"]["href"] for a in page.all("a")
    }


def test_shared_runs_cost_once(tmp_path):
    put(
        tmp_path,
        "table_02",
        table("table_02", measured("table_02"), runs=("aaaaaaaaaaaa", "bbbbbbbbbbbb"))
        | {"provenance": origin("aaaaaaaaaaaa", "bbbbbbbbbbbb", seconds=100.0)},
    )
    put(
        tmp_path,
        "table_05",
        table("table_05", measured("table_05"))
        | {"provenance": origin("bbbbbbbbbbbb", "cccccccccccc", seconds=120.0)},
    )
    for id, seconds in (("aaaaaaaaaaaa", 30.0), ("bbbbbbbbbbbb", 70.0), ("cccccccccccc", 50.0)):
        (tmp_path / "smoke" / "records" / id).mkdir(parents=True)
        (tmp_path / "smoke" / "records" / id / "result.json").write_text(
            json.dumps({"id": id, "seconds": seconds})
        )
    page = Page(write_report(tmp_path, "smoke"))
    *_, last = rows_of(page, "cost")
    assert [c[0] for c in last][1:3] == [
        "3",
        "2 min 30 s",
    ] and "3 trainings, 2 min 30 s over distinct runs" in text(next(page.all("header")))


def test_results_of_an_older_version_make_a_page(root, tmp_path):
    source = json.loads((root / "tests/older/systems_short/table.json").read_text())
    put(tmp_path, "systems_short", source, "replica")
    shown = text(Page(write_report(tmp_path, "replica")).section("systems_short"))
    for c in source["cells"]:
        assert f"{c['measured']['mean']:.2f}" in shown


def judged_claims(*verdicts):
    "Claims of Table V as an experiment leaves them."
    row = {
        "text": "a over b",
        "better": [["RDL", "Accuracy(%)"]],
        "worse": [["softmax", "Accuracy(%)"]],
        "printed": 1.0,
        "computed": 1.0,
        "p": 0.031,
        "verdict": "",
        "seeds": [0, 1],
    }
    effect = {"mean": 2.0, "low": -60.0, "high": 64.0, "n": 2}
    return [
        {**row, "id": f"ours.{v}", "verdict": v, "effect": None if v == "not run" else effect}
        for v in verdicts
    ]


WORDS = r"\b(holds|fails|undecided|under-trained)\b"


def test_a_smoke_page_judges_nothing_and_draws_no_wide_interval(tmp_path):
    cells = [
        cell("RDL", "Accuracy(%)", "93.18", [5.0, 95.0]),
        cell("softmax", "Accuracy(%)", "91.06", [0.0, 50.0, 100.0]),
        cell("a_in", "Accuracy(%)", "91.76", [90.0] * 3),
    ]
    put(
        tmp_path,
        "table_05",
        table("table_05", cells, judged_claims("holds", "fails", "undecided", "not run")),
    )
    path = write_report(tmp_path, "smoke")
    page, marked = Page(path), path.with_name("index.md").read_text()
    ours = marked[marked.index("# ") : marked.index("## Progress")] + "\n".join(
        line.split(":")[0] for line in marked.splitlines() if line.startswith("- ")
    )
    table_v = marked[marked.index("## Table V\n") : marked.index("## Table VI\n")]
    verdicts = [
        text(n)
        for css in ("verdict", "bar")
        for tag in ("span", "div")
        for n in page.all(tag, class_=css)
    ]
    said = [text(next(page.all("header"))), ours, table_v, *verdicts] + [
        n["attrs"].get("aria-label", "") for n in page.all("svg")
    ]
    for words in said:
        assert not re.search(WORDS, words) and "±" not in words, re.search(WORDS + "|±", words)
    assert not re.search(r"p = |p \(Holm\)|n=2", said[0] + marked) and not list(
        page.all("path", class_="i")
    )
    head = text(next(page.all("header")))
    assert (
        "Made-up clips: these numbers show that every step works; no claim is judged here." in head
        and "3 works" in head
    )
    assert "Made-up clips" in marked and "✓ works" in marked and "5.00, 95.00 (2 seeds)" in marked
    grid = next(page.all("table", page.section("table_05")))
    assert (
        "5.00, 95.00" in text(grid)
        and "(2 seeds)" in text(grid)
        and [
            len(list(page.all("circle", tr)))
            for tr in page.all("tr", next(page.all("tbody", grid)))
        ].count(2)
        == 1
    )


def test_other_pages_keep_verdicts_and_intervals(tmp_path):
    cells = [
        cell("RDL", "Accuracy(%)", "93.18", [80.0, 82.0, 84.0]),
        cell("softmax", "Accuracy(%)", "91.06", [0.0, 50.0, 100.0]),
    ]
    put(
        tmp_path,
        "table_05",
        table("table_05", cells, judged_claims("undecided", "not run")),
        "replica",
    )
    path = write_report(tmp_path, "replica")
    page, marked = Page(path), path.with_name("index.md").read_text()
    shown = text(page.section("table_05")).replace("\u200b", "")
    assert "82.00± 4.97 (3 seeds)" in shown and "50.00(3 seeds)" in shown, (
        "124 points to each side are no interval of an accuracy"
    )
    assert len(list(page.all("path", page.section("table_05"), class_="i"))) == 1
    assert (
        "? undecided" in marked
        and "[-60.00" not in shown
        and "under-trained" in text(next(page.all("header")))
    )


def test_the_page_says_how_long_runs_were_trained(tmp_path):
    runs = {
        "aaaaaaaaaaaa": {"epochs": 5, "batches": {"train": 17}, "clips": {"train": 68}},
        "bbbbbbbbbbbb": {"epochs": 5, "steps": 80, "clips_seen": 320, "clips": {"train": 64}},
    }
    for id, record in runs.items():
        (tmp_path / "smoke" / "records" / id).mkdir(parents=True)
        (tmp_path / "smoke" / "records" / id / "result.json").write_text(
            json.dumps({"id": id, "seconds": 1.0, **record})
        )
    put(
        tmp_path,
        "table_02",
        table(
            "table_02",
            [
                cell("C8", "Accuracy(%)", "93.88", [90.0], ["aaaaaaaaaaaa"]),
                cell("C4", "Accuracy(%)", "93.88", [90.0], ["bbbbbbbbbbbb"]),
            ],
            runs=tuple(runs),
        ),
    )
    path = write_report(tmp_path, "smoke")
    assert (
        "5 passes, 80–85 steps" in text(Page(path).section("table_02"))
        and "5 passes, 80–85 steps" in path.with_name("index.md").read_text()
    )


def test_tables_of_an_older_version_still_load(root, tmp_path):
    for folder in sorted((root / "tests/older").glob("*/table.json")):
        put(tmp_path, folder.parent.name, json.loads(folder.read_text()), "replica")
    page = Page(write_report(tmp_path, "replica"))
    assert len(list(page.all("section"))) > 20
