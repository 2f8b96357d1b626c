"""Names and shape letters used everywhere.

Shape letters: B batch, T steps of a window, D features, V vocabulary, K stages, L lookahead (labels after the window),
H history (inputs up to its end), M windows of a horizon.
"""

from __future__ import annotations

from torch import Tensor

#: What a recurrent layer or stage carries from window to window; every tensor has B in dimension -2. Empty: stateless.
State = tuple[Tensor, ...]

#: A label that counts for nothing: no loss, no gradient (`ignore_index` of the cross-entropy).
IGNORED = -1
