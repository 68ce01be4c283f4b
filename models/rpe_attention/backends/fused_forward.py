"""Triton kernels of attention with relative positions; `fused_attention` is what calls them.

B images, H heads, a map of height x width = L tokens row by row, D features a head, N buckets.

Every program owns a tile of consecutive tokens of one image and head (queries in `forward_kernel`
and `backward_queries_kernel`, keys in `backward_keys_kernel`) and goes over all tokens of the
other side in chunks. A chunk lies within one row of the map: then all its pairs with one owned
token have the same row offset, so their buckets are base + 0 .. SEGMENT - 1, and the gradient of
these few buckets is summed in registers until the base changes. The base never returns to an
earlier value, so each sum is written once: no atomics, the same bits each time.

Tiles and chunks may hang over the end of the map or row. Their token ids are then clamped, so
that every address is valid, and the surplus is masked where it would count.

Tensors of the tokens are given as pointer and strides, of (B, H, L, D) for q, k, v, out and of
(B, H, L, N) for the tables t_k and t_q, which may be None.
"""

import triton
import triton.language as tl

# They differ from batch to batch: whether 16 divides them is not worth compiling anew.
SIZES_OF_MAP = ("height", "width", "t_k_strides", "t_q_strides", "dt_k_strides", "dt_q_strides")
# Seven rounds are the fewest with which Philox passes the BigCrush tests (Salmon et al., 2011).
PHILOX_ROUNDS = tl.constexpr(7)


@triton.jit
def image_and_head(num_tiles, heads):
    pair = (tl.program_id(0) // num_tiles).to(tl.int64)
    return pair, pair // heads, pair % heads


INTERPRETED = tl.constexpr(not isinstance(image_and_head, triton.runtime.JITFunction))


@triton.jit
def product(a, b):
    """a @ b, float32, in full precision (no TensorFloat-32)."""
    if INTERPRETED:  # it would multiply the bits of bfloat16 as if they were whole numbers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def owned_tokens(num_tiles, length, width, BLOCK: tl.constexpr):
    """Ids (the surplus is >= length), clamped ids, and rows and columns of these."""
    ids = tl.program_id(0) % num_tiles * BLOCK + tl.arange(0, BLOCK)
    clamped = tl.minimum(ids, length - 1)
    return ids, clamped, clamped // width, clamped % width


@triton.jit
def chunk_of_row(step, chunks_in_row, width, BLOCK: tl.constexpr):
    """Row, clamped columns, clamped ids, and which of them are no surplus."""
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
    """(tokens, BLOCK_D), zero beyond HEAD_DIM."""
    d = tl.arange(0, BLOCK_D)[None, :]
    addresses = _feature_addresses(x, strides, image, head, ids, d)
    return tl.load(addresses, mask=d < HEAD_DIM, other=0.0)


@triton.jit
def store_features(
    x, strides, image, head, ids, length, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    d = tl.arange(0, BLOCK_D)[None, :]
    mask = (ids[:, None] < length) & (d < HEAD_DIM)
    addresses = _feature_addresses(x, strides, image, head, ids, d)
    tl.store(addresses, values.to(x.dtype.element_ty), mask=mask)


@triton.jit
def entry_addresses(table, strides, image, head, ids, buckets):
    """Where tokens have their entries for buckets. In 32 bits beyond image and head: there is
    one address for each pair, and 64 bits each would not fit into the registers."""
    table += image * strides[0] + head * strides[1]
    return table + (ids * strides[2] + buckets * strides[3])


@triton.jit
def bucket_of(offsets, d_row, d_col, height, width):
    """Buckets of offsets, from the table that `irpe.offset_buckets` makes."""
    return tl.load(offsets + (d_row + height - 1) * (2 * width - 1) + d_col + width - 1)


@triton.jit
def base_bucket(offsets, d_row, height, width, SEGMENT: tl.constexpr):
    """First bucket of the segment in which all buckets of these row offsets are."""
    return bucket_of(offsets, d_row, 0, height, width) // SEGMENT * SEGMENT


@triton.jit
def logits_of(
    q, k, image, head, m, n, d_row, d_col, height, width,
    t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
):  # fmt: skip
    """Logits of queries m and keys n at offsets d_row, d_col (query minus key), (M, N) float32.

    Query m looks up its bucket of key n in t_k, key n its bucket of query m in t_q.
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
    """Which keys are no padding; padding: (B, L) uint8 or None."""
    result = n >= 0
    if padding is not None:  # no early return: the compiler would look at what follows, too
        result = tl.load(padding + image * length + n) == 0
    return result


@triton.jit
def is_kept(seed, pair, m, n, length, dropout_p):
    """Which pairs dropout keeps. A number of their own for each: (image, head, query, key)."""
    number = (pair * length + m[:, None]) * length + n[None, :]
    return tl.rand(tl.load(seed), number, PHILOX_ROUNDS) >= dropout_p


@triton.jit(do_not_specialize_on_alignment=SIZES_OF_MAP)
def forward_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
    padding, seed, dropout_p, out, out_strides, log_sum_exp, heads, height, width,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out (B, H, L, D), and log_sum_exp (B, H, L) float32 of the logits; 0 in a row of padding."""
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

        now_largest = tl.maximum(largest, tl.max(logits, 1))
        # While there was only padding, exp(-inf - -inf) would not be a number.
        shift = tl.where(now_largest == float("-inf"), 0.0, now_largest)
        weights = tl.exp(logits - shift[:, None])
        rescale = tl.exp(largest - shift)
        total = total * rescale + tl.sum(weights, 1)
        if seed is not None:
            kept = is_kept(seed, pair, m, n, length, dropout_p)
            weights = tl.where(kept, weights / (1 - dropout_p), 0.0)
        result = result * rescale[:, None]
        result += product(weights.to(v_chunk.dtype), v_chunk)
        largest = now_largest

    # Nothing to attend to gives zeros, as torch's scaled_dot_product_attention does.
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    result = result / total[:, None]
    store_features(out, out_strides, image, head, ids, length, result, HEAD_DIM, BLOCK_D)
    of_row = tl.where(empty, 0.0, largest + tl.log(total))
    tl.store(log_sum_exp + pair * length + ids, of_row, mask=ids < length)
