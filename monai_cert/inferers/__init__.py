# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""MONAI inferers."""
