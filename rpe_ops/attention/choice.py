"""Where `auto` takes the fused kernels on CUDA, and where PyTorch's attention with RPE as a mask.

From a model, not measured on a GPU (docs/fused_kernels.md has its numbers): the fused kernels take
time for instructions, which benchmarks/instructions counts, PyTorch's attention for passes over
tensors of (B, H, L, L). Both grow with the number of pairs, so that what decides is how many
instructions a pair takes.
"""

from .call import AttentionCall
from .fused import settings_of

# From how many tokens on, by bytes of a feature and whether there is dropout; None: never. Small
# maps do not fill a GPU, and float32 has no tensor cores without TF32's rounding.
FROM_TOKENS: dict[tuple[int, bool], int | None] = {
    (2, True): 512,
    (2, False): 512,
    (4, True): None,
    (4, False): None,
}
# The model is of the method product, which cross becomes, and of heads of at most 32 features.
MODELLED_HEAD_DIM = 32
# A mask of so many bytes is not made for any call: a layer keeps it for the backward pass.
LARGE_MASK = 2**29


def fused_wins(call: AttentionCall) -> bool:
    """Return whether the fused kernels are expected to be faster, or to be needed for memory."""
    batch, heads, len_q, head_dim = call.q.shape
    pairs = len_q * call.k.shape[2]
    if batch * heads * pairs * call.q.element_size() >= LARGE_MASK:
        return True
    if head_dim > MODELLED_HEAD_DIM:
        return False
    for rpe in (call.rpe_q, call.rpe_k, call.rpe_v):
        settings = settings_of(rpe)
        if rpe is not None and (settings is None or settings.is_undirected):
            return False
    tokens = FROM_TOKENS.get((call.q.element_size(), call.dropout_p > 0))
    return tokens is not None and pairs >= tokens**2
