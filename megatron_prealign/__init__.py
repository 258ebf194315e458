"""PreAlign pretraining on megatron-core: early multilingual alignment, then code-switched pretraining."""

import logging
import warnings

from megatron_prealign.core_import import watch_imports

__version__ = "0.2.0"

# megatron-core and torch warn, once per module and rank, about things that users can't change and about missing
# packages. The log of a run says which implementation is used, and why.
for _message in (
    ".*Apex (is|are) not installed.*",
    "full scope is deprecated.*",
    ".* is experimental and still under active development.*",
    "When using async grad allreduce.*CUDA_DEVICE_MAX_CONNECTIONS.*",
    "Please use DTensor instead.*",
    "torch.distributed is disabled, unavailable or uninitialized.*",
    "`load_state_dict` is deprecated.*",
    "`torch.distributed.[a-z_]+` is deprecated. Please use .*",
):
    warnings.filterwarnings("ignore", message=_message)
logging.getLogger("megatron.core.rerun_state_machine").setLevel(logging.ERROR)

watch_imports()
