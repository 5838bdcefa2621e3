"""python -m plmft.models.kernels: build the CPU kernel that attention uses where it is there."""

import sys

from plmft import InputError
from plmft.models.kernels.build import build


def main() -> int:
    """Returns: the exit code; 2 where it can't be built here."""
    try:
        path, built = build()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{'Built' if built else 'Already there:'} {path}\nPLMFT_KERNEL=0 turns it off.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
