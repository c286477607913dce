"""``python -m infra.embedded.store``: run the embedded store until SIGTERM or Ctrl-C."""

from __future__ import annotations

import sys

from infra.embedded.store.main import main

if __name__ == "__main__":
    sys.exit(main())
