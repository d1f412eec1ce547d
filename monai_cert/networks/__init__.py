# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Networks whose Lipschitz constant is known, and the bounds that make it known."""
