"""What a report's data files hold, from the code that writes them: docs/data.md.

python -m upkeep.data_dictionary > docs/data.md
"""

import sys

from reports.data import FILES
from upkeep.algorithms import markdown

HEAD = """# Data

Made by `python -m upkeep.data_dictionary`. `harness report DIR` writes these files to `DIR/report/data`;
any reader of Parquet opens them. Numbers have full precision; what is absent is null. Tables lie beside
them as CSV.
"""
TAIL = """## The record itself

`DIR/study.json` is the specification: ranges, options, budget, prices, seeds, metrics, versions.
`DIR/journal.log` is Optuna's journal, a study for each solver, with a trial's parameters and its objective,
and everything else of its result as one attribute; its lines are sealed. `harness export DIR --out
study.parquet` writes both as one file, for others to report against.

`harness dashboard DIR --out dashboard.log` writes a copy for
[optuna-dashboard](https://github.com/optuna/optuna-dashboard): a study for each solver; the objective and
the headline metric as named objectives; searched parameters; every metric, every kind of the ledger, the
state and its reason as attributes; problem, options, budget, prices and seeds as attributes of the study.
It is a copy: what is changed there changes no record.
"""


def main() -> None:
    parts = [HEAD]
    for name, (what, meanings) in FILES.items():
        rows = [[f"`{column}`", meaning] for column, meaning in meanings.items()]
        parts.append(f"## {name}\n\n{what}\n\n{markdown(['column', 'meaning'], rows)}\n")
    sys.stdout.write("\n".join([*parts, TAIL]))


if __name__ == "__main__":
    main()
