"""Recordings to a published shard set with its targets; --dry-run says what is found and what will be written.

ray job submit --working-dir . -- python jobs/prepare.py --recipe demo
"""

import ray

from eegdecode.recipes import parser, resolve
from eegdecode.runtime.prepare import prepare
from eegdecode.runtime.survey import survey


def main() -> None:
    """Parse, connect, prepare."""
    arguments = parser(__doc__).parse_args()
    dry_run, arguments.dry_run = arguments.dry_run, False
    experiment = resolve(arguments)
    if dry_run:
        print(experiment.model_dump_json(indent=2), survey(experiment), sep="\n")
        return
    ray.init()
    prepare(experiment)


if __name__ == "__main__":
    main()
