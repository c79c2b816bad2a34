"""Shards to bundles, one per fold; takes each fold's best configuration from search.json where there is one.

ray job submit --working-dir . -- python jobs/train.py --recipe demo
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.train import train


def main() -> None:
    """Parse, connect, train."""
    experiment = from_command_line(__doc__)
    ray.init()
    train(experiment)


if __name__ == "__main__":
    main()
