# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""``python -m monai_cert``: the same as ``monai-cert``."""

from __future__ import annotations

import sys

from monai_cert.cli import main

if __name__ == "__main__":
    sys.exit(main())
