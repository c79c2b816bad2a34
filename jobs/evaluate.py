"""Bundles and test trials to scores: summary.json and report.html.

ray job submit --working-dir . -- python jobs/evaluate.py --recipe demo
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.evaluate import evaluate


def main() -> None:
    """Parse, connect, evaluate."""
    experiment = from_command_line(__doc__)
    ray.init()
    evaluate(experiment)


if __name__ == "__main__":
    main()
