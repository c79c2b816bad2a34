"""A third party's scores, answers, split or training log to audit.json and audit.html; needs no Ray.

python jobs/audit.py --scores scores.npy --ids ids.csv --split split.csv --out audits/theirs
"""

import argparse

from eegdecode.evaluate.audit import audit, write_audit


def main() -> None:
    """Parse, audit, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", help="matrix (queries, gallery), .npy of floats, higher is better")
    parser.add_argument("--ids", help="axis (query or gallery), index, picture, concept, subject; .csv or .json")
    parser.add_argument("--predictions", help="query, candidate, rank or score, shown, subject, assignment")
    parser.add_argument("--split", help="split, subject, session, run, picture, concept, repetition")
    parser.add_argument("--steps", help="step or epoch, train, val, test: shares between 0 and 1")
    parser.add_argument("--reported", type=float, help="the score that was claimed, a share")
    parser.add_argument("--n-queries", type=int, help="test queries behind --steps")
    parser.add_argument("--n-way", type=int, help="candidates behind --steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder for audit.json and audit.html")
    options = vars(parser.parse_args())
    out = options.pop("out")
    try:
        found = audit(**options)
    except ValueError as error:
        parser.error(str(error))
    write_audit(out, found)
    for finding in found.findings:
        print(f"{finding.severity}: {finding.says}")
    print(f"{len(found.findings)} findings; {out}/audit.html")


if __name__ == "__main__":
    main()
