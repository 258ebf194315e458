from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.switch_table import SwitchTable

def document_sums(tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.uint64]: ...

class Scanner:
    def __init__(self, table: SwitchTable) -> None: ...
    def scan(
        self, tokens: NDArray[np.int32], flags: NDArray[np.uint16], offsets: NDArray[np.int64]
    ) -> tuple[Any, ...]: ...
