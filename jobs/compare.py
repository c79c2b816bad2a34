"""Reports of several runs to compare.json and compare.html; refuses runs that answered different questions. No Ray.

python jobs/compare.py s3://bucket/nice s3://bucket/atm s3://bucket/ubp --out s3://bucket/compared
"""

import argparse

from eegdecode.evaluate.compare import compare, load_runs, write_comparison


def main() -> None:
    """Parse, compare, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders or prefixes that hold summary.json and decisions.json")
    parser.add_argument("--against", help="test all others against this run only: its folder or its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder for compare.json and compare.html")
    options = parser.parse_args()
    try:
        comparison = compare(load_runs(options.runs), against=options.against, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    write_comparison(options.out, comparison)
    for run in comparison.runs:
        print(f"{run.name}: top-1 {run.score.top1:.4f} (chance {run.score.chance_top1:.4f})")
    print(f"{options.out}/compare.html")


if __name__ == "__main__":
    main()
