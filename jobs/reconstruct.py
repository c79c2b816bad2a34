"""Bundle and test trials to drawn pictures, with anchors and scores.

ray job submit --working-dir . -- python jobs/reconstruct.py --recipe demo
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.reconstruct import reconstruct


def main() -> None:
    """Parse, connect, draw."""
    experiment = from_command_line(__doc__)
    ray.init()
    reconstruct(experiment)


if __name__ == "__main__":
    main()
