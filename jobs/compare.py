"""Reports of several runs to compare.json and compare.html; refuses runs that answered different questions. No Ray.

python jobs/compare.py s3://bucket/nice s3://bucket/atm s3://bucket/ubp --out s3://bucket/compared
"""

import argparse

from eegdecode.evaluate import compare_categories_page, compare_page
from eegdecode.evaluate.compare import compare, load_runs, write_comparison
from eegdecode.evaluate.compare_categories import compare_categories, load_category_runs, of_categories
from eegdecode.evaluate.compare_categories import write_category_comparison as write_categories


def main() -> None:
    """Parse, compare, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders or prefixes that hold summary.json and decisions.json")
    parser.add_argument("--against", help="test all others against this run only: its folder or its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder for compare.json and compare.html")
    options = parser.parse_args()
    against, seed, out = options.against, options.seed, options.out
    try:
        if of_categories(options.runs):
            categories = compare_categories(load_category_runs(options.runs), against=against, seed=seed)
            write_categories(out, categories)
            print(compare_categories_page.headline(categories.model_dump(mode="json")))
        else:
            comparison = compare(load_runs(options.runs), against=against, seed=seed)
            write_comparison(out, comparison)
            print(compare_page.headline(comparison.model_dump(mode="json")))
    except ValueError as error:
        parser.error(str(error))
    print(f"{out}/compare.html")


if __name__ == "__main__":
    main()
