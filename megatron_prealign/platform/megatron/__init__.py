"""All that is private of megatron-core: its internals that are called, replaced or subclassed, and its versions.

Importing this package imports megatron-core without W&B, which its inference engine imports wherever that is installed.
That import takes a third of a second, and leaves two temporary folders for each process that is killed. A run that is
tracked by W&B imports it by itself. Can go when megatron-core imports it where it is used.
"""

import sys
from typing import Any, cast

if "wandb" not in sys.modules:
    cast("dict[str, Any]", sys.modules)["wandb"] = None  # makes the import fail
    try:
        import megatron.core  # noqa: F401
    finally:
        del sys.modules["wandb"]
