"""The shipped baselines: of today's protocol, small, whole, and their trials give the same again."""

import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.exchange import read_results
from harness.launch import make_spec
from harness.space import find_space
from harness.spec import differences

FILES = sorted((Path(__file__).parents[1] / "baselines").glob("*.toml"))
MOST_BYTES = 800_000


def harness(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_there_are_baselines() -> None:
    assert len(FILES) >= 5


def test_a_baseline_is_whole_and_of_todays_protocol(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a study by its file today can be reported with it."""
    asked: list[Any] = []
    monkeypatch.setattr("harness.launch.run_study", lambda *given: asked.extend(given) or 0)
    assert harness(monkeypatch, "run", "--config", config, "--out", "unused") == 0
    context, search = asked[:2]
    plugins = context.find_plugins()
    space = find_space(context.problem, None)
    solvers = {name: plugins.solver(name) for name in space.solvers()}
    today = make_spec(context, search, plugins.problem(context.problem), solvers, space)
    spec, results = read_results(config.with_suffix(".parquet"))

    assert not differences(spec, today)
    assert set(results) == {(name, number) for name in solvers for number in range(today.trials)}
    assert config.with_suffix(".parquet").stat().st_size < MOST_BYTES


def test_random_trials_of_a_baseline_run_again(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others after each `make baselines`."""
    file = config.with_suffix(".parquet")
    _, results = read_results(file)
    ran = [
        f"{name}/{number}" for (name, number), one in results.items() if one.head()["state"] == "completed"
    ]
    for trial in random.Random(sha256(file.read_bytes()).hexdigest()).sample(ran, 3):
        assert harness(monkeypatch, "replay", file, trial) == 0, trial


def test_a_wrong_number_in_a_baseline_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(FILES[0].with_name("quadratic.parquet"))
    rows = table.to_pylist()
    row = next(row for row in rows if '"gradient":0.' in row["result"])
    row["result"] = row["result"].replace('"gradient":0.', '"gradient":1.', 1)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), tmp_path / "f.parquet")

    assert harness(monkeypatch, "replay", tmp_path / "f.parquet", f"{row['solver']}/{row['number']}") == 1
    assert "gradient: 1." in capsys.readouterr().out
