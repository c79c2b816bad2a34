"""Recordings to a published shard set.

ray job submit --working-dir . -- python jobs/prepare.py --recipe demo
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.prepare import prepare


def main() -> None:
    """Parse, connect, prepare."""
    experiment = from_command_line(__doc__)
    ray.init()
    prepare(experiment)


if __name__ == "__main__":
    main()
