"""Vectors of texts: static embeddings of a package, averaged; nothing is downloaded.

WordLlama's weights and tokenizer (MIT) lie in its wheel; its own loader would ask a model hub. Such
vectors only find candidates: on fow-cache questions that must not share an answer score as high as
those that may.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl.auth.extras import needs_extra
from llmctl.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

SIZE = 64
"""Numbers of a vector: the first of 256, which are trained to do alone. 98% of fow-cache's
paraphrases are as `CLOSE` by 64, and by 256."""

CLOSE = 0.3
"""Cosine from which a question is a candidate."""

_PACKAGE = "wordllama"


@cache
def embedder() -> Embedder:
    """The one of this process. Raises as `Embedder`."""
    return Embedder()


class Embedder:
    """Makes vectors of length 1. Opening it takes a quarter of a second; raises `SetupError`
    without the extra `semantic`."""

    def __init__(self) -> None:
        for module in (_PACKAGE, "tokenizers", "safetensors", "numpy"):
            needs_extra("semantic", module, module)
        import numpy as np
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        spec = find_spec(_PACKAGE)
        folder = Path(str(spec and spec.origin)).parent
        try:
            self._tokenizer = Tokenizer.from_file(
                str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
            )
            (weights,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
        except Exception as error:
            raise SetupError(
                f"{folder} does not hold the weights that are expected ({error}): `pip install "
                "wordllama==0.4.0.post1` in the environment of llmctl"
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._weights: Any = np.ascontiguousarray(weights[:, :SIZE], dtype=np.float32)

    def __call__(self, text: str) -> Vector:
        """The vector; zeros for a text without a token."""
        import numpy as np

        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not tokens:
            return np.zeros(SIZE, np.float32)
        mean: Vector = self._weights[tokens].mean(axis=0, dtype=np.float32)
        length = float(np.linalg.norm(mean))
        return mean / np.float32(length) if length else mean
