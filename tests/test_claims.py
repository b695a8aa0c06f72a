"The paper's claims: none is left out, how they are judged, and the page that shows them all."

import itertools
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from mdr_repro.measuring.statistics import POCOCK, paired_test, two_looks_p
from mdr_repro.paper.sentences import HEADING, NOT_TESTABLE, STATEMENTS, sentences, unplaced
from mdr_repro.paper.tables import (
    CLAIMS,
    FIGURES,
    LOWER_IS_BETTER,
    MARGIN,
    TABLES,
    Claim,
    Place,
    paper_text,
    plain,
)
from mdr_repro.study import verdicts as claims
from mdr_repro.study.profiles import get_profile
from mdr_repro.study.verdicts import (
    SECTIONS,
    VERDICTS,
    Verdict,
    claims_markdown,
    holm,
    in_short,
    judge,
    load_claims,
    measured_margin,
    same_test,
    sentence_verdict,
    statement_rows,
    verdict_row,
    where,
    without_verdict,
    write_claims,
)

text = paper_text()
needs_paper = pytest.mark.skipif(text is None, reason="the paper's text (shared/paper) is not here")
by_id = {c.id: c for c in CLAIMS}
FIGURE_CELLS = {  # rows and columns that the figures' experiments measure
    "figure_01": (
        {"(a) GCN", "(b) GCN + CVSTA", "(c) GCN + RDL", "(d) GCN + CVSTA + RDL"},
        {"Accuracy(%)", "Silhouette", "Spread(°)"},
    ),
    "figure_02": ({"RDL", "center loss"}, {"Drag by the outlier"}),
    "figure_04": (
        {"without CVSTA", "with CVSTA", "one joint in all"},
        {"Joint correlation", "Frame correlation", "Right knee(%)", "Right knee, map(%)"},
    ),
    "figure_05": ({"Softmax", "RDL"}, {"Outliers(%)", "Silhouette", "Spread(°)"}),
}


# the list


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_claim_points_at_cells(claim):
    places = (*claim.better, *claim.worse)
    if claim.id == "VIII.balance":
        assert claim.computed is None and {p.row for p in places} <= {
            r.name for r in TABLES["table_08"].rows
        }  # a column of our own
    elif claim.table in TABLES:
        assert all(TABLES[claim.table].value(*p) is not None for p in places)
    else:
        rows, columns = FIGURE_CELLS[claim.table]
        assert all(p.row in rows and p.column in columns for p in places)
    assert claim.kind == "similar" or len({p.column in LOWER_IS_BETTER for p in places}) == 1


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_an_experiment_measures_the_cells_of_a_claim(claim):
    "Where an experiment declares its cells, those of the claim are among them."
    from mdr_repro.study.cells import EXPERIMENTS, experiment_cells

    if claim.table not in EXPERIMENTS or claim.better[0].column in ("Params", "FLOPs"):
        pytest.skip("no cells are declared for it: not trained yet, or counted (see `sizes`)")
    assert {(p.row, p.column) for p in (*claim.better, *claim.worse)} <= {
        (c.row, c.column) for c in experiment_cells(claim.table)
    }


def test_every_table_and_every_listed_system_is_claimed():
    assert {c.table for c in CLAIMS} == {*TABLES, *FIGURES} - {"figure_03"}
    for table in ("table_09", "table_10", "table_11"):
        places = {
            p
            for c in CLAIMS
            if c.table == table and c.kind == "better"
            for p in (*c.better, *c.worse)
        }
        assert places == {
            (r.name, column) for r in TABLES[table].rows for column in TABLES[table].columns
        }


def test_margins_are_fixed_beforehand():
    "One point, or two clips of the test set where that is more; never the printed difference."
    wide = [c for c in CLAIMS if c.kind != "better"]
    assert {c.margin for c in wide} == {MARGIN} == {1.0} and Counter(c.kind for c in wide) == {
        "close": 7,
        "similar": 1,
    }
    assert [measured_margin(wide[0], n) for n in (None, 425, 200, 160)] == [1.0, 1.0, 1.0, 1.25]
    assert all(abs(c.computed) != pytest.approx(c.margin) for c in wide)


def test_rdl_is_claimed_over_softmax_on_clean_clips():
    "Full RDL over softmax on clean clips, and ST-GCN with both over ST-GCN with CVSTA."
    assert [
        by_id[i].computed for i in ("VIII.softmax", "VIII.softmax-gym", "I.rdl-stgcn-cvsta")
    ] == pytest.approx([93.18 - 91.06, 92.11 - 90.13, 89.65 - 88.71])
    assert {c.id for c in CLAIMS if c.contradicted} == {
        "IV.impact-1",
        "XI.xsub-infogcn",
        "XI.xsub-posec3d",
        "XI.close-xsub-posec3d",
        "cnn.gym",
        "cnn.xsub",
        "VIII.implicit-sphereface",
    }


@needs_paper
def test_every_sentence_of_the_paper_has_one_place():
    assert unplaced(text) == []
    page = [s for s in sentences(text) if not HEADING.fullmatch(s)]
    for s in page:  # without it on either list it is missed
        held = [x for x in STATEMENTS if plain(x.text) not in plain(s)]
        rest = {
            why: [w for w in lines if not plain(s).startswith(plain(w))]
            for why, lines in NOT_TESTABLE.items()
        }
        assert s in unplaced(text, held, rest)


@needs_paper
@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.text[:40])
def test_a_sentence_stands_in_its_section(statement):
    order = {
        "Abstract": "Abstract—",
        "I": "I. INTRODUCTION",
        "II.A": "A. Skeleton-based",
        "II.B": "B. Loss functions",
        "III": "III. METHOD",
        "III.B": "B. Model implementation",
        "III.C": "C. Robust Decouple Loss",
        "III.D": "D. Gradients calculation",
        "IV.A": "A. Datasets",
        "IV.B": "B. Training details",
        "IV.C": "C. Ablation study",
        "IV.D": "D. Comparison with other",
        "IV.E": "E. Visualization of CVSTA",
        "IV.F": "F. Visualization of RDL",
        "IV.G": "G. Comparison with the State",
        "V": "V. LIMITATIONS",
        "VI": "VI. CONCLUSION",
        "end": "REFERENCES",
    }
    following = dict(zip(order, [*list(order)[1:], None]))
    assert plain(statement.text) in plain(
        " ".join(sentences(text, order[statement.section], order[following[statement.section]]))
    )
    assert bool(statement.claims) != bool(statement.reason)


def test_every_claim_belongs_to_one_sentence():
    assert all(sum(plain(c.text) in plain(s.text) for s in STATEMENTS) == 1 for c in CLAIMS)
    assert {id for s in STATEMENTS for id in s.claims} == set(by_id)


@needs_paper
def test_sentences_are_joined_over_tables_and_captions():
    found = sentences(text)
    assert any(
        "fine-grained action recognition task" in s and s.startswith("This illustrates angular")
        for s in found
    )
    assert any("Thus, we can confirm that CVSTA" in s for s in found) and not any(
        "\t" in s or "90.82" in s for s in found
    )


# verdicts


def claim_of(kind="better", margin=None, rows="ab", column="Accuracy(%)"):
    places = tuple(Place(r, column) for r in rows)
    return Claim(
        "made",
        "",
        "IV.C",
        "figure_00",
        places if kind == "similar" else places[:1],
        () if kind == "similar" else places[1:2],
        kind=kind,
        margin=margin,
    )


def values_of(column="Accuracy(%)", **rows):
    return {(row, column): dict(enumerate(v)) for row, v in rows.items()}


@pytest.mark.parametrize(
    "a, b, verdict",
    [
        ((1.0, 2.0, 3.1, 4.0), (0.0, 1.0, 2.0, 3.0), "holds"),
        ((0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 3.1, 4.0), "fails"),
        ((1.0, 2.0, 3.0), (3.0, 1.0, 2.0), "undecided"),
        ((1.0,), (0.0,), "undecided"),
        ((), (), "not run"),
        ((1.0, 1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0, 0.0), "undecided"),
        ((1.0,) * 6, (0.0,) * 6, "holds"),
    ],
)
def test_better(a, b, verdict):
    v = judge(claim_of(), values_of(a=a, b=b))
    assert v.verdict == verdict and (v.effect is None) == (not a) and (v.p is None) == (len(a) < 2)
    if len(a) > 1 and len(set(np.subtract(a, b))) > 1:
        assert v.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    turned = judge(claim_of(column="Outliers(%)"), values_of("Outliers(%)", a=b, b=a))
    assert (turned.verdict, turned.p) == (verdict, v.p)


def test_two_gains_are_compared():
    claim = by_id["I.attention-free"]
    rng, level = np.random.default_rng(0), np.arange(6) * 3.0
    values = {
        tuple(p): dict(enumerate(level + shift + rng.normal(0, 0.05, 6)))
        for p, shift in zip((*claim.better, *claim.worse), (4.0, 5.0, 1.0, 6.0))
    }
    v = judge(claim, values)  # 4 - 1 against 6 - 5
    assert v.verdict == "holds" and v.effect.mean == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    "shift, verdict", [(-2.0, "fails"), (-0.8, "undecided"), (-0.2, "holds"), (3.0, "holds")]
)
def test_close(shift, verdict):
    base, wobble = [90.0, 91.0, 89.0, 90.5, 92.0], (0.5, -0.5, 0.3, -0.4, 0.1)
    v = judge(
        claim_of("close", 1.0), values_of(a=[x + shift + w for x, w in zip(base, wobble)], b=base)
    )
    assert v.verdict == verdict and v.effect.mean == pytest.approx(shift)
    assert (v.effect.low > -1) == (verdict == "holds") and (v.effect.high < -1) == (
        verdict == "fails"
    )


@pytest.mark.parametrize(
    "shift, verdict",
    [(0.0, "holds"), (0.9, "undecided"), (1.2, "undecided"), (2.5, "fails"), (-2.5, "fails")],
)
def test_similar(shift, verdict):
    base = np.array([90.0, 91.0, 89.0, 90.5, 92.0])
    rows = dict(
        a=base, b=base + [0.2, -0.3, 0.1, 0.2, -0.2], c=base + shift + [0.3, -0.1, 0.3, -0.4, -0.1]
    )
    v = judge(claim_of("similar", 1.0, "abc"), values_of(**rows))
    assert v.verdict == verdict and v.effect.mean >= 0
    intervals = [
        stats.ttest_rel(rows[x], rows[y]).confidence_interval()
        for x, y in itertools.combinations("abc", 2)
    ]
    assert all(-1 < i.low and i.high < 1 for i in intervals) == (verdict == "holds")
    assert max(abs(v.effect.low), abs(v.effect.high)) == pytest.approx(
        max(max(abs(i.low), abs(i.high)) for i in intervals)
    )
    # the order of rows means nothing
    again = judge(claim_of("similar", 1.0, "cab"), values_of(**rows))
    assert (again.verdict, again.p, again.effect.mean) == pytest.approx(
        (v.verdict, v.p, v.effect.mean)
    )


def test_holm_agrees_with_the_steps_of_its_definition():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ps = (rng.random(7) ** 3).tolist()
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            # step down: stop at the first that is not small enough
            for rank, i in enumerate(np.argsort(ps)):
                if ps[i] > level / (7 - rank):
                    break
                rejected.add(int(i))
            assert {i for i, p in enumerate(holm(ps)) if p <= level} == rejected


# the page


@pytest.fixture
def folder(tmp_path):
    "Results of two tables and a figure, with made-up numbers."
    rng = np.random.default_rng(0)
    for id in ("table_02", "table_06", "figure_02"):
        own = [c for c in CLAIMS if c.table == id]
        values = {
            tuple(p): {
                s: float(80 + 2 * (p.row in ("C8", "C4", "center loss")) + rng.normal(0, 0.2))
                for s in range(5)
            }
            for c in own
            for p in (*c.better, *c.worse)
        }
        (tmp_path / "paper" / id).mkdir(parents=True)
        (tmp_path / "paper" / id / "table.json").write_text(
            json.dumps(
                {"title": f"made-up {id}", "claims": [verdict_row(judge(c, values)) for c in own]}
            )
        )
    return tmp_path / "paper"


def test_load_claims(folder):
    rows = load_claims(folder)
    assert [r["id"] for r in rows] == [c.id for c in CLAIMS]
    by = {r["id"]: r for r in rows}
    assert (
        by["II.c8-fixed"]["verdict"]
        == by["fig2.center"]["verdict"]
        == by["VI.similar"]["verdict"]
        == "holds"
        and by["VI.similar"]["margin"] == MARGIN
        and by["II.c16-fixed"]["verdict"] in ("undecided", "fails", "holds")
    )
    assert (
        by["II.c8-fixed"]["title"],
        by["I.both-stgcn"]["title"],
        by["I.both-stgcn"]["table"],
    ) == ("made-up table_02", "", "table_01")
    absent = [r for r in rows if r["table"] not in ("table_02", "table_06", "figure_02")]
    assert all(
        (r["verdict"], r["effect"], r["p"], r["p_holm"]) == ("not run", None, None, None)
        for r in absent
    )
    assert [r["p_holm"] for r in rows] == holm(r["p"] for r in rows)
    assert all(r["p_holm"] is None or r["p_holm"] >= r["p"] for r in rows)


def test_a_table_without_kinds_can_be_read(folder):
    "Tables written before claims had kinds."
    path = folder / "table_02/table.json"
    table = json.loads(path.read_text())
    for row in table["claims"]:
        del row["kind"], row["margin"], row["looks"], row["test_clips"], row["untrained"]
    path.write_text(json.dumps(table))
    row = {r["id"]: r for r in load_claims(folder)}["II.c8-fixed"]
    assert (
        (row["kind"], row["looks"], row["untrained"], row["verdict"]) == ("better", 1, [], "holds")
        and row["told"] > 0
        and row["told_clips"] is None
    )
    assert claims_markdown(load_claims(folder), "paper")


def test_a_verdict_at_another_margin_is_not_shown(folder):
    "Margins were once the printed differences; such rows are read as not run."
    path = folder / "table_06/table.json"
    table = json.loads(path.read_text())
    for row in table["claims"]:
        if row["kind"] == "similar":
            row["margin"] = 0.71
    path.write_text(json.dumps(table))
    row = {r["id"]: r for r in load_claims(folder)}["VI.similar"]
    assert (row["verdict"], row["margin"], row["effect"]) == ("not run", MARGIN, None)


def test_the_page_and_its_numbers(folder):
    path = write_claims(folder.parent, "paper")
    page, saved = path.read_text(), json.loads(path.with_name("claims.json").read_text())
    assert path == folder / "claims.md" and saved["claims"] == json.loads(
        json.dumps(load_claims(folder))
    )
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    for claim in CLAIMS:
        assert sum(line.startswith(f"| {claim.id} |") for line in lines) == 1
    counts = Counter(r["verdict"] for r in saved["claims"])
    assert (
        f"| claims | {counts['holds']} | {counts['fails']} | {counts['undecided']} |"
        f" {counts['under-trained']} | {counts['not run']} | {len(CLAIMS)} |" in page
    )
    tests = sum(r["p"] is not None and r["kind"] == "better" for r in saved["claims"])
    assert (
        f"{tests} tests for an advantage" in page
        and f"{tests * 0.025:.1f} of them would hold" in page
    )
    assert "against its words" in next(
        line for line in lines if line.startswith("| XI.xsub-infogcn |")
    )
    assert "1 of 425 clips" in next(line for line in lines if line.startswith("| I.cvsta-ctrgcn |"))
    widths = {len(line.replace("\\|", "").split("|")) for line in lines}
    assert widths <= {5, 6, 9, 12} and re.search(r"\bnan\b", page, re.I) is None


def test_sections_are_in_the_papers_order_and_nothing_is_lost(folder):
    page = claims_markdown(load_claims(folder), "paper")
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    named = [
        next((k for k in SECTIONS if h.startswith(f"## Section {k}:") or h == f"## {k}"), None)
        for h in headings
    ]
    assert [k for k in named if k] == [k for k in SECTIONS if any(c.section == k for c in CLAIMS)]
    untested = page[page.index("## Sentences that no cell can test") :]
    assert all((s.reason in untested) for s in STATEMENTS if s.reason)


def test_a_sentence_fails_with_one_of_its_claims(folder):
    rows = [{**r, "verdict": "holds", "p": 1e-9} for r in load_claims(folder)]
    assert {s["verdict"] for s in statement_rows(rows)} == {"holds", ""}
    rows[[r["id"] for r in rows].index("XI.xsub-posec3d")]["verdict"] = "fails"
    assert {s["text"][:20] for s in statement_rows(rows) if s["verdict"] == "fails"} == {
        s.text[:20] for s in STATEMENTS if "XI.xsub-posec3d" in s.claims
    }
    for r in rows:
        r["p"] = 0.04  # one of fourteen, which chance explains
    assert not {s["text"] for s in statement_rows(rows) if s["verdict"] == "fails"}


def test_a_sentence_against_a_slow_reckoning():
    rng = np.random.default_rng(1)
    for _ in range(300):
        k = int(rng.integers(1, 8))
        rows = [
            {
                "id": str(i),
                "verdict": str(rng.choice(VERDICTS[:5], p=(0.5, 0.15, 0.15, 0.1, 0.1))),
                "p": None,
            }
            for i in range(k)
        ]
        for r in rows:
            r["p"] = {
                "holds": 0.04 * rng.random(),
                "fails": 0.04 * rng.random(),
                "undecided": 0.05 + 0.9 * rng.random(),
            }.get(r["verdict"])
        tested, fails = sorted((r["p"], r["verdict"]) for r in rows if r["p"] is not None), False
        for rank, (p, verdict) in enumerate(tested):  # Holm, step by step
            if p * (len(tested) - rank) >= 0.05:
                break
            fails |= verdict == "fails"
        states = [r["verdict"] for r in rows]
        expected = (
            "fails"
            if fails
            else (
                "under-trained"
                if "under-trained" in states
                else states[0]
                if set(states) in ({"holds"}, {"not run"})
                else "undecided"
            )
        )
        assert sentence_verdict(rows) == expected, rows


def test_two_looks():
    rng = np.random.default_rng(2)
    for _ in range(50):
        a, b = rng.normal(0.5, 1, (2, 10)).tolist()
        v, first, both = (
            judge(claim_of(), values_of(a=a, b=b), planned=5),
            paired_test(a[:5], b[:5]),
            paired_test(a, b),
        )
        assert (
            v.looks == 2
            and v.p == pytest.approx(two_looks_p(first.p, both.p))
            and v.effect == both.interval
        )
        assert (v.verdict == "undecided") == (v.p >= 0.05)
        if abs(min(first.p, both.p) - POCOCK) > 1e-3:
            assert (v.verdict != "undecided") == (min(first.p, both.p) < POCOCK)
    assert (
        judge(claim_of(), values_of(a=a, b=b), planned=10).looks
        == 1
        == judge(claim_of(), values_of(a=a[:3], b=b[:3]), planned=5).looks
    )


def test_the_same_runs_are_one_test():
    "A profile that fills both of NTU's slots with the same clips and settings tests X-view once."
    for profile in ("smoke", "replica", "paper"):
        slots = get_profile(profile).slots
        same = {c.id for c in CLAIMS if same_test(c, profile)}
        assert bool(same) == (
            slots["ntu60_xsub"] == slots["ntu60_xview"] or slots["fsd10"] == slots["finegym99"]
        )
        assert all(by_id[id].table in ("table_08", "table_11") for id in same)


def test_made_up_clips_give_no_verdict(folder):
    v = judge(claim_of(), values_of(a=(1.0, 2.0, 3.1, 4.0), b=(0.0, 1.0, 2.0, 3.0)))
    w = without_verdict(v)
    assert (v.verdict, w.verdict, w.p, w.effect.low, w.effect.mean) == (
        "holds",
        "works",
        None,
        None,
        v.effect.mean,
    )
    assert without_verdict(Verdict(v.claim, None, None, "not run")).verdict == "not run"
    rows = [
        {**r, "verdict": "works" if r["effect"] else "not run", "p": None, "p_holm": None}
        for r in load_claims(folder)
    ]
    page = claims_markdown(rows, "smoke")
    assert "holds" not in page.split("## Abstract")[0] and "p (Holm)" in page
    assert {s["verdict"] for s in statement_rows(rows)} <= {"works", "not run", ""}


def test_a_damaged_table_is_named(folder):
    (folder / "table_06/table.json").write_text("{")
    with pytest.raises(ValueError, match="table_06.table.json is damaged; delete it"):
        load_claims(folder)


def test_the_page_does_not_depend_on_experiments():
    "It can be written where nothing can be trained."
    import ast
    from pathlib import Path

    tree = ast.parse(Path(claims.__file__).read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level}
    rooms = {"core", "measuring", "paper"}
    known = {"profiles", "results", "training.run_spec"}
    assert modules and {m for m in modules if m.split(".")[0] not in rooms} <= known


def test_statements_in_short():
    assert (
        in_short(verdict_row(judge(by_id["VI.similar"], {})))
        == "H1, T1, S1, S2, T2, T3 within 1.00 of each other"
    )
    assert where("table_11") == "Table XI" and math.isclose(
        by_id["IV.impact-1"].computed, 92.47 - 93.18 - (90.82 - 91.06), abs_tol=1e-9
    )


@needs_paper
@pytest.mark.parametrize("id", FIGURES)
def test_a_figure_s_caption_is_the_paper_s_to_its_end(id):
    "A caption is one line of the text."
    printed = next(line for line in text.splitlines() if line.startswith(f"Fig. {int(id[-2:])}. "))
    assert plain(printed) == plain(f"Fig. {int(id[-2:])}. {FIGURES[id]}")
