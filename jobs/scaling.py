"""Shards to a curve of score against training concepts: scaling.json, and a figure in the run's report.

ray job submit --working-dir . -- python jobs/scaling.py --recipe demo
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.scaling import scaling


def main() -> None:
    """Parse, connect, train and score every share."""
    experiment = from_command_line(__doc__)
    ray.init()
    scaling(experiment)


if __name__ == "__main__":
    main()
