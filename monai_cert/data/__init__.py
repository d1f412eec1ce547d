# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Reading files, and datalists of public data sets."""
