"""Targets of the pictures of a prepared shard set: one set for each tower of the experiment.

ray job submit --working-dir . -- python jobs/targets.py --recipe demo
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.targets import embed


def main() -> None:
    """Parse, connect, embed."""
    experiment = from_command_line(__doc__)
    ray.init()
    embed(experiment)


if __name__ == "__main__":
    main()
