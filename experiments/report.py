"""Tables, plots and a page of all runs in a ledger, finished or not.

    python experiments/report.py runs/grid

Writes table.md, table.tex, runs.csv, figures.png, curves.png and report.html into the folder, and prints the first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grid.ledger import Ledger, LedgerError
from grid.page import write_page
from grid.tables import comma_separated, latex, markdown, mixed_versions, rows_of, told_apart

from ipsm_jax.reporting.files import atomic_write


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that run_grid.py wrote into")
    folder = parser.parse_args().folder
    try:
        entries = Ledger(folder).entries()
    except LedgerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not entries:
        print(f"error: no run is in the ledger of {folder}", file=sys.stderr)
        return 2
    entries = told_apart(entries)
    rows = rows_of(entries)
    table = "\n\n".join(filter(None, [markdown(rows), mixed_versions(rows)])) + "\n"
    texts = {"table.md": table, "table.tex": latex(rows) + "\n", "runs.csv": comma_separated(entries)}
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    page = write_page(folder, entries, rows)
    print(texts["table.md"], f"{page}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
