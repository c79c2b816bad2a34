"""Several configurations on the validation part; the best of each fold is kept in search.json.

ray job submit --working-dir . -- python jobs/search.py --recipe demo
"""

import ray

from eegdecode.recipes import from_command_line
from eegdecode.runtime.search import search


def main() -> None:
    """Parse, connect, search."""
    experiment = from_command_line(__doc__)
    ray.init()
    search(experiment)


if __name__ == "__main__":
    main()
