"""Studies that travel: shards, merging, exported files, reports with them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.cli import main
from harness.errors import HarnessError
from harness.exchange import SPEC_KEY
from harness.record import JOURNAL, load_record
from harness.share import Share

TOY = str(Path(__file__).parent / "toy_plugin.py")
SPACE = """
[toy_solver]
steps = { low = 1, high = 9 }
step_size = { low = 1e-3, high = 0.3 }
[soba]
upper_step_size = { low = 1e-3, high = 0.1 }
lower_step_size = { low = 1e-3, high = 0.1 }
batch_size = 2
upper_batch_size = 2
"""


def harness(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a small study in a folder of this name; gives the folder."""
    space = tmp_path / "space.toml"
    space.write_text(SPACE)

    def begin(name: str, *more: object, budget: int = 60, trials: int = 7) -> Path:
        own = ["--space", space, "--budget", budget, "--trials", trials, "--out", tmp_path / name]
        words = ["run", "toy_quadratic", "--plugin", TOY, "--executor", "inline", "--seed", "3", *own]
        words += [] if "--solvers" in more else ["--solvers", "toy_solver,soba"]
        words += more
        assert harness(monkeypatch, *words) == 0
        return tmp_path / name

    return begin


def lasting(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    record = load_record(folder)
    trials, curves = (
        frame.drop(columns=["seconds", "evaluation_seconds", "pack"], errors="ignore")
        .sort_values(["trial", *(["ledger.total"] if "ledger.total" in frame else [])])
        .reset_index(drop=True)
        for frame in (record.trials, record.curves)
    )
    return trials.sort_index(axis=1), curves.sort_index(axis=1)


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_shards_merged_are_the_whole_study(run: Any, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    """Also where a shard is of one pack size and another of another, and one solver came later."""
    whole = run("whole", "--sampler", sampler)
    shards = [run(f"shard{n}", "--shard", f"{n}/3", "--pack", n, "--sampler", sampler) for n in (1, 2, 3)]
    assert [len(load_record(shard).trials) for shard in shards] == [2 * 3, 2 * 2, 2 * 2]
    merged = whole.parent / "merged"
    assert harness(monkeypatch, "merge", merged, *shards, shards[0]) == 0

    for one, two in zip(lasting(whole), lasting(merged), strict=True):
        pd.testing.assert_frame_equal(one, two)
    run("merged", "--sampler", sampler)  # is finished: adds nothing
    assert len(load_record(merged).trials) == 14


def test_a_shard_goes_on_as_the_whole(run: Any) -> None:
    whole, folder = run("whole"), run("part", "--shard", "2/3")
    run("part", "--shard", "2/3")
    assert sorted(load_record(folder).trials["number"]) == [1, 1, 4, 4]
    run("part")
    for one, two in zip(lasting(whole), lasting(folder), strict=True):
        pd.testing.assert_frame_equal(one, two)


def test_a_shard_of_tpe_is_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sampler", "tpe", "--shard", "1/2", "--data-dir", tmp_path, "--out", tmp_path / "s"]
    assert harness(monkeypatch, "run", "data_poisoning", *words) == 2
    assert "--shard: tpe learns from all trials" in capsys.readouterr().err and not (tmp_path / "s").exists()


def test_an_exported_study_reports_the_same_elsewhere(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with another's: as the study that has the solvers of both."""
    whole, first = run("whole"), run("first", "--solvers", "toy_solver")
    second, there = run("second", "--solvers", "soba"), whole.parent / "elsewhere"
    file = there / "first.parquet"
    assert harness(monkeypatch, "export", first, "--out", file) == 0
    assert harness(monkeypatch, "report", first) == 0
    assert harness(monkeypatch, "report", file, "--out", there / "alone") == 0
    assert harness(monkeypatch, "report", file, "--with", second, "--out", there / "both") == 0
    assert harness(monkeypatch, "report", whole) == 0

    for table in (first / "report" / "tables").glob("*.csv"):
        assert table.read_text() == (there / "alone" / "tables" / table.name).read_text()
    untimed = [t for t in (whole / "report" / "tables").glob("*.csv") if "econds" not in t.read_text()]
    assert len(untimed) > 2
    for table in untimed:
        assert table.read_text() == (there / "both" / "tables" / table.name).read_text()


def test_what_differs_is_named_and_contradictions_are_not_decided(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, dear = run("one"), run("dear", budget=90)
    file = one.parent / "one.parquet"
    assert harness(monkeypatch, "export", one, "--out", file) == 0
    capsys.readouterr()
    out = one.parent / "merged"
    assert harness(monkeypatch, "merge", out, one, dear) == 2
    assert "budget: 60.0 → 90.0" in capsys.readouterr().err and not out.exists()

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    rows = table.to_pylist()
    result = json.loads(rows[4]["result"])
    result["ledger"]["total"] += 1
    rows[4]["result"] = json.dumps(result)
    changed = pyarrow.Table.from_pylist(rows, schema=table.schema)
    pyarrow.parquet.write_table(changed, one.parent / "changed.parquet")
    assert harness(monkeypatch, "merge", out, one, one.parent / "changed.parquet") == 2
    name = f"{rows[4]['solver']}/{rows[4]['number']}"
    error = capsys.readouterr().err
    assert f"1 trials with other numbers, {name}" in error and error.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("older_first", [True, False])
def test_a_study_older_than_an_option_or_a_parameter_has_its_default(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], older_first: bool
) -> None:
    """As another's baseline is, whose problem has got an option since, and whose solver a parameter."""
    import pyarrow.parquet

    plain, wide = run("plain"), run("wide", "--set", "size=4")
    file = plain.parent / "plain.parquet"
    assert harness(monkeypatch, "export", plain, "--out", file) == 0
    table = pyarrow.parquet.read_table(file)
    spec = json.loads(table.schema.metadata[SPEC_KEY])
    for solver in spec["solvers"].values():
        del solver["defaults"]
    del spec["options"]["size"], spec["defaults"], spec["solvers"]["toy_solver"]["space"]["mischief"]
    older = plain.parent / "older.parquet"
    pyarrow.parquet.write_table(table.replace_schema_metadata({SPEC_KEY: json.dumps(spec)}), older)

    both = [older, plain] if older_first else [plain, older]
    assert harness(monkeypatch, "merge", plain.parent / "merged", *both) == 0
    capsys.readouterr()
    both = [older, wide] if older_first else [wide, older]
    assert harness(monkeypatch, "merge", plain.parent / "unlike", *both) == 2
    assert "options.size: 3 → 4" in (said := capsys.readouterr().err) or "options.size: 4 → 3" in said


@pytest.mark.parametrize(("factor", "code"), [(1 + 1e-13, 0), (1 + 1e-3, 2)])
def test_another_packs_rounding_is_no_contradiction(
    run: Any, monkeypatch: pytest.MonkeyPatch, factor: float, code: int
) -> None:
    """Shards and the whole study run a trial in other packs, where products of matrices round otherwise: what
    differed in its last digit was refused."""
    import pyarrow.parquet

    one = run("one")
    file, other = one.parent / "one.parquet", one.parent / "other.parquet"
    assert harness(monkeypatch, "export", one, "--out", file) == 0
    table = pyarrow.parquet.read_table(file)
    rows = table.to_pylist()
    result = json.loads(rows[4]["result"])
    result["metrics"] = {name: value * factor for name, value in result["metrics"].items()}
    rows[4]["result"] = json.dumps(result)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), other)

    assert harness(monkeypatch, "merge", one.parent / "merged", one, other) == code


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing", b"{}"])
def test_a_file_that_is_none_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    file = tmp_path / "file.parquet"
    file.write_bytes(content)

    assert harness(monkeypatch, "report", file, "--out", tmp_path / "r") == 2
    assert "is no file of `harness export`" in capsys.readouterr().err


def test_a_study_of_a_damaged_trial_is_not_exported(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run("one")
    journal = folder / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b'"objective"', b'"objectivf"', 1))

    assert harness(monkeypatch, "export", folder, "--out", folder / "f.parquet") == 2


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "a/b", "1/0", "-1/2", "²/3", "1/" + "9" * 5000])
def test_a_bad_shard_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="--shard"):
        Share.parse(text)


@pytest.mark.parametrize("trials", [0, 1, 7, 12])
def test_shares_are_a_partition(trials: int) -> None:
    shares = [Share(n, 5) for n in range(1, 6)]
    assert all(sum(share.has(n) for share in shares) == 1 for n in range(trials))
    assert [share.count(trials) for share in shares] == [
        sum(share.has(n) for n in range(trials)) for share in shares
    ]
