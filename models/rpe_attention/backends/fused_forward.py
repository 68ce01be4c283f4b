"""Triton kernel of the forward pass of attention with RPE, and what all kernels share.

B images, H heads, a map of height x width = L tokens row by row, D features of a head, N buckets.

Every program owns a tile of consecutive tokens of one image and head (queries in `forward_kernel`
and `backward_queries_kernel`, keys in `backward_keys_kernel`) and goes over all tokens of the
other side in chunks, as flash attention does.

A chunk lies within one row of the map. Then all its pairs with one owned token have the same row
offset, so their buckets are base + 0 .. SEGMENT - 1, and the gradient of these few buckets is
summed in registers until the base changes. The base never returns to an earlier value, so each sum
is written once, without atomics: gradients are bitwise reproducible.

Tiles and chunks may reach over the end of the map or row. Their token ids are then clamped, so
that every address is valid, and the surplus tokens are masked where they would count.

Tensors are passed as pointer and strides: (B, H, L, D) for q, k, v, out and (B, H, L, N) for the
tables t_k (RPE on keys) and t_q (RPE on queries), which may be None. Logits and sums are float32,
whatever the inputs: 16 bits would lose the small terms of long sums.
"""

import triton
import triton.language as tl

# Triton recompiles a kernel for arguments that are multiples of 16. These vary from batch to batch,
# so that the gain would not be worth it.
SIZES_OF_MAP = ("height", "width", "t_k_strides", "t_q_strides", "dt_k_strides", "dt_q_strides")
# The fewest rounds with which Philox passes BigCrush (Salmon et al., "Parallel random numbers: as
# easy as 1, 2, 3", 2011).
PHILOX_ROUNDS = tl.constexpr(7)


@triton.jit
def image_and_head(num_tiles, heads):
    """Return image * heads + head, image and head of this program, in 64 bits for addresses."""
    pair = (tl.program_id(0) // num_tiles).to(tl.int64)
    return pair, pair // heads, pair % heads


INTERPRETED = tl.constexpr(not isinstance(image_and_head, triton.runtime.JITFunction))


@triton.jit
def product(a, b):
    """Compute a @ b in float32, without TensorFloat-32's rounding of the inputs."""
    if INTERPRETED:  # the interpreter stores bfloat16 as integers and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def owned_tokens(num_tiles, length, width, BLOCK: tl.constexpr):
    """Return ids of the tile (surplus ones are >= length), clamped ids, their rows and columns."""
    ids = tl.program_id(0) % num_tiles * BLOCK + tl.arange(0, BLOCK)
    clamped = tl.minimum(ids, length - 1)
    return ids, clamped, clamped // width, clamped % width


@triton.jit
def chunk_of_row(step, chunks_in_row, width, BLOCK: tl.constexpr):
    """Return the chunk's row, its clamped columns and ids, and which of them are not surplus."""
    row = step // chunks_in_row
    cols = step % chunks_in_row * BLOCK + tl.arange(0, BLOCK)
    clamped = tl.minimum(cols, width - 1)
    return row, clamped, row * width + clamped, cols < width


@triton.jit
def _feature_addresses(x, strides, image, head, ids, d):
    x += image * strides[0] + head * strides[1]
    return x + ids.to(tl.int64)[:, None] * strides[2] + d * strides[3]


@triton.jit
def load_features(x, strides, image, head, ids, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load tokens' features (tokens, BLOCK_D), zero beyond HEAD_DIM."""
    d = tl.arange(0, BLOCK_D)[None, :]
    addresses = _feature_addresses(x, strides, image, head, ids, d)
    return tl.load(addresses, mask=d < HEAD_DIM, other=0.0)


@triton.jit
def store_features(
    x, strides, image, head, ids, length, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Store features (tokens, BLOCK_D) of the tokens whose ids are below length."""
    d = tl.arange(0, BLOCK_D)[None, :]
    mask = (ids[:, None] < length) & (d < HEAD_DIM)
    addresses = _feature_addresses(x, strides, image, head, ids, d)
    tl.store(addresses, values.to(x.dtype.element_ty), mask=mask)


@triton.jit
def entry_addresses(table, strides, image, head, ids, buckets):
    """Return addresses of tokens' entries for buckets.

    In 32 bits within an image and head: there is one address for each pair of tokens, and with 64
    bits the registers would not hold them. `fused.fused_attention` checks that they suffice.
    """
    table += image * strides[0] + head * strides[1]
    return table + (ids * strides[2] + buckets * strides[3])


@triton.jit
def bucket_of(offsets, d_row, d_col, height, width):
    """Look up the buckets of offsets in the table made by `irpe.offset_buckets`."""
    return tl.load(offsets + (d_row + height - 1) * (2 * width - 1) + d_col + width - 1)


@triton.jit
def base_bucket(offsets, d_row, height, width, SEGMENT: tl.constexpr):
    """Return the first bucket of the segment that holds all buckets of these row offsets."""
    return bucket_of(offsets, d_row, 0, height, width) // SEGMENT * SEGMENT


@triton.jit
def logits_of(
    q, k, image, head, m, n, d_row, d_col, height, width,
    t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
):  # fmt: skip
    """Compute the logits of queries m and keys n, (M, N) float32.

    d_row, d_col are their offsets, query minus key. Query m looks up its bucket of key n in t_k,
    and key n its bucket of query m, at the opposite offset, in t_q.
    """
    logits = product(q, tl.trans(k))
    if t_k is not None:
        buckets = bucket_of(offsets_k, d_row, d_col, height, width)
        logits += tl.load(entry_addresses(t_k, t_k_strides, image, head, m[:, None], buckets))
    if t_q is not None:
        buckets = bucket_of(offsets_q, -d_row, -d_col, height, width)
        logits += tl.load(entry_addresses(t_q, t_q_strides, image, head, n[None, :], buckets))
    return logits


@triton.jit
def not_padding(padding, image, length, n):
    """Return which keys are not padding; padding: (B, L) uint8 or None."""
    result = n >= 0
    if padding is not None:  # not an early return: Triton would compile the code after it, too
        result = tl.load(padding + image * length + n) == 0
    return result


@triton.jit
def is_kept(seed, pair, m, n, length, dropout_p):
    """Return which pairs dropout keeps.

    The random number depends on (image, head, query, key) alone, so that the backward kernels, with
    other tiles, draw the same.
    """
    number = (pair * length + m[:, None]) * length + n[None, :]
    return tl.rand(tl.load(seed), number, PHILOX_ROUNDS) >= dropout_p


@triton.jit(do_not_specialize_on_alignment=SIZES_OF_MAP)
def forward_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
    padding, seed, dropout_p, out, out_strides, log_sum_exp, heads, height, width,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write out (B, H, L, D) and log_sum_exp (B, H, L) float32 of the logits.

    The backward kernels recompute the softmax from log_sum_exp; it is 0 if all keys are padding.
    """
    length = height * width
    num_tiles = tl.cdiv(length, BLOCK_M)
    pair, image, head = image_and_head(num_tiles, heads)
    ids, m, m_row, m_col = owned_tokens(num_tiles, length, width, BLOCK_M)
    q_tile = load_features(q, q_strides, image, head, m, HEAD_DIM, BLOCK_D)

    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    chunks_in_row = tl.cdiv(width, BLOCK_N)
    for step in range(height * chunks_in_row):
        n_row, n_col, n, valid = chunk_of_row(step, chunks_in_row, width, BLOCK_N)
        k_chunk = load_features(k, k_strides, image, head, n, HEAD_DIM, BLOCK_D)
        v_chunk = load_features(v, v_strides, image, head, n, HEAD_DIM, BLOCK_D)
        d_row, d_col = m_row[:, None] - n_row, m_col[:, None] - n_col[None, :]
        logits = logits_of(
            q_tile, k_chunk, image, head, m, n, d_row, d_col, height, width,
            t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
        )  # fmt: skip
        valid &= not_padding(padding, image, length, n)
        logits = tl.where(valid[None, :], logits, float("-inf"))

        # Online softmax: sums so far are rescaled when a larger logit appears.
        now_largest = tl.maximum(largest, tl.max(logits, 1))
        # As long as there was only padding, -inf - -inf would be NaN.
        shift = tl.where(now_largest == float("-inf"), 0.0, now_largest)
        weights = tl.exp(logits - shift[:, None])
        rescale = tl.exp(largest - shift)
        total = total * rescale + tl.sum(weights, 1)
        if seed is not None:
            # After the sum: dropout acts on the normalised weights.
            kept = is_kept(seed, pair, m, n, length, dropout_p)
            weights = tl.where(kept, weights / (1 - dropout_p), 0.0)
        result = result * rescale[:, None]
        result += product(weights.to(v_chunk.dtype), v_chunk)
        largest = now_largest

    # If all keys are padding the output is 0, as in torch's scaled_dot_product_attention.
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    result = result / total[:, None]
    store_features(out, out_strides, image, head, ids, length, result, HEAD_DIM, BLOCK_D)
    of_row = tl.where(empty, 0.0, largest + tl.log(total))
    tl.store(log_sum_exp + pair * length + ids, of_row, mask=ids < length)
