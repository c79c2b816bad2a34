"""Bundles to scores on the person each left out, as the EEG is and mapped to the others' EEG: transfer.json.

ray job submit --working-dir . -- python jobs/transfer.py --recipe perceptogram --set protocol.split_by=subject_concept
"""

from eegdecode.recipes import from_command_line
from eegdecode.runtime.transfer import transfer


def main() -> None:
    """Parse and score; everything fits into one process."""
    transfer(from_command_line(__doc__))


if __name__ == "__main__":
    main()
