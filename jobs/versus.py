"""All recipes that fit a headband, and the baselines, on its recordings: versus.json and versus.md.

ray job submit --working-dir . -- python jobs/versus.py --recipe muse_n170 --set compute.data_uri=FOLDER
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.demo import with_weights
from eegdecode.runtime.versus import table, versus


def main() -> None:
    """Parse, connect, compare."""
    experiment = with_weights(from_command_line(__doc__))
    ray.init()
    print(table(versus(experiment)))


if __name__ == "__main__":
    main()
