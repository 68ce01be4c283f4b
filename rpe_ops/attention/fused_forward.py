"""Triton kernel of the forward pass of attention with RPE, and what all kernels share.

B images, H heads, a map of height x width = L tokens row by row, D features of a head, N buckets.

Every program owns a tile: BLOCK_O consecutive tokens of a row of the map, of one image and head
(queries in `forward_kernel` and `backward_queries_kernel`, keys in `backward_keys_kernel`). It goes
over all tokens of the other side as flash attention does, in chunks of BLOCK_X columns: over the
columns in the outer loop, over the rows in the inner one. The tile is the first axis of products.

A bucket of `product` is (row bucket) * side + (column bucket). Column buckets of tile and chunk
stay the same within the inner loop. All pairs of a step have the same row bucket, and as it follows
the row offset it changes only a few times: in a run of steps without a change, what the tile looks
up is the same, and stays in registers. Its gradient is added up over the run, too, and then once by
column bucket. For other methods every step is a run of its own.

Tiles and chunks may reach over the end of a row. Their columns are then clamped, so that every
address is valid, and the surplus tokens are masked where they would count.

Tensors are passed as pointer and strides: (B, H, L, D) for q, k, v, out and (B, H, L, N) for the
tables, which may be None: t_own belongs to the tile's tokens, t_other to the others. Logits and
sums are float32, whatever the inputs: 16 bits would lose the small terms of long sums. Exponents
are of base 2, as the GPU's instruction has them.
"""

import triton
import triton.language as tl

# Triton recompiles a kernel for arguments that are multiples of 16. These vary from batch to batch,
# so that the gain would not be worth it.
VARYING = ("height", "width", "t_own_strides", "t_other_strides", "d_table_strides", "drop_below")
# The fewest rounds with which Philox passes BigCrush (Salmon et al., "Parallel random numbers: as
# easy as 1, 2, 3", 2011).
PHILOX_ROUNDS = tl.constexpr(7)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def image_and_head(height, tiles_in_row, heads):
    """Return image * heads + head, image and head of this program, in 64 bits for addresses."""
    pair = (tl.program_id(0) // (height * tiles_in_row)).to(tl.int64)
    return pair, pair // heads, pair % heads


INTERPRETED = tl.constexpr(not isinstance(image_and_head, triton.runtime.JITFunction))


@triton.jit
def product(a, b, start):
    """Compute start + a @ b in float32, without TensorFloat-32's rounding of the inputs."""
    if INTERPRETED:  # the interpreter stores bfloat16 as integers and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, start, input_precision="ieee")


@triton.jit
def owned_tokens(height, width, tiles_in_row, BLOCK_O: tl.constexpr):
    """Return the tile's row and first column, all columns (surplus ones >= width), clamped ids."""
    tile = tl.program_id(0) % (height * tiles_in_row)
    row = tile // tiles_in_row
    first = tile % tiles_in_row * BLOCK_O
    cols = first + tl.arange(0, BLOCK_O)
    return row, first, cols, row * width + tl.minimum(cols, width - 1)


@triton.jit
def feature_addresses(x, strides, image, head, ids, BLOCK_D: tl.constexpr):
    """Return addresses (tokens, BLOCK_D) of tokens' features, and which are features."""
    x += image * strides[0] + head * strides[1]
    d = tl.arange(0, BLOCK_D)[None, :]
    return x + ids.to(tl.int64)[:, None] * strides[2] + d * strides[3]


@triton.jit
def load_features(addresses, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load features (tokens, BLOCK_D), zero beyond HEAD_DIM."""
    mask = None
    if HEAD_DIM < BLOCK_D:
        mask = tl.arange(0, BLOCK_D)[None, :] < HEAD_DIM
    return tl.load(addresses, mask=mask, other=None if mask is None else 0.0)


@triton.jit
def store_features(
    x, strides, image, head, ids, valid, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Store features (tokens, BLOCK_D) of the valid tokens."""
    mask = valid[:, None] & (tl.arange(0, BLOCK_D)[None, :] < HEAD_DIM)
    addresses = feature_addresses(x, strides, image, head, ids, BLOCK_D)
    tl.store(addresses, values.to(x.dtype.element_ty), mask=mask)


# ---- what is looked up ----


@triton.jit
def bucket_of(offsets, d_row, d_col, height, width):
    """Look up the buckets of offsets in the table made by `irpe.offset_buckets`."""
    return tl.load(offsets + (d_row + height - 1) * (2 * width - 1) + d_col + width - 1)


@triton.jit
def column_buckets(offsets, d_row, d_col, height, width, SIDE: tl.constexpr, BY_AXIS: tl.constexpr):
    """Return the part of buckets that is not the row's: with BY_AXIS the same for every d_row."""
    buckets = bucket_of(offsets, d_row, d_col, height, width)
    return buckets % SIDE if BY_AXIS else buckets


@triton.jit
def row_base(offsets, d_row, height, width, SIDE: tl.constexpr, BY_AXIS: tl.constexpr):
    """Return the first of the buckets of a row offset, a number."""
    base = d_row * 0
    if BY_AXIS:
        base = tl.load(offsets + (d_row + height - 1) * (2 * width - 1)) // SIDE * SIDE
    return base


@triton.jit
def look_up(table, strides, base, tokens, buckets):
    """Load entries base + buckets of tokens' rows of a table, as float32.

    In 32 bits within an image and head: there is one address for each pair of tokens, and with 64
    bits the registers would not hold them. `fused.fused_attention` checks that they suffice.
    """
    entries = tokens * strides[2] + buckets * strides[3]
    return tl.load(table + (base * strides[3] + entries)).to(tl.float32)


@triton.jit
def look_up_others(
    table, strides, offsets, tokens, buckets, d_row, d_col, height, width,
    SIDE: tl.constexpr, BY_AXIS: tl.constexpr,
):  # fmt: skip
    """Return what the others' table adds to the logits of a step, whose row offset is d_row.

    buckets are those of `column_buckets`. The tokens change with every step, so that there is no
    run of steps with the same bias.
    """
    if not BY_AXIS:
        buckets = bucket_of(offsets, d_row, d_col, height, width)
    base = row_base(offsets, d_row, height, width, SIDE, BY_AXIS)
    return look_up(table, strides, base, tokens, buckets)


@triton.jit
def as_product(x, dtype: tl.constexpr):
    """Return x, (tile, chunk) float32, in the registers in which a tensor core has products.

    What is loaded lies in other registers, and would be moved through shared memory in each step,
    with two barriers. Adding a product of zeros moves it now. float32 uses no tensor core.
    """
    if dtype != tl.float32:
        a = tl.full((x.shape[0], 16), 0.0, dtype)
        b = tl.full((16, x.shape[1]), 0.0, dtype)
        x = product(a, b, x)
    return x


@triton.jit
def is_kept(seed, pair, m_row, m_first, m, n_row, n_first, n, width, drop_below):
    """Return which pairs of queries and keys dropout keeps, those of columns first + m or n.

    The first columns are multiples of 16, so that the compiler sees which pairs share a draw.

    The random bits depend on (seed, image, head, query, key) alone, so that the backward kernels,
    with other tiles, draw the same. A draw of Philox is 4 x 32 bits, for 2 queries and 4 keys with
    16 bits each: columns that differ in bit 3, of keys also in bit 0, share it. Those are the pairs
    that a thread of a tensor core holds in registers, so that the compiler draws once for them.

        counter    (key's group, query's group, image * heads + head, 0), key seed
        group      of a query: row * 8 G + column // 16 * 8 + column % 8, G = ceil(width / 16)
                   of a key:   row * 4 G + column // 16 * 4 + column % 8 // 2
        word       2 * (bit 3 of the query's column) + (bit 3 of the key's)
        half       the upper one where the key's column is odd
        kept       where half >= drop_below
    """
    groups = (width + 15) // 16
    m_group = (m_row * groups + m_first // 16) * 8 + ((m >> 4) * 8 + (m & 7))
    n_group = (n_row * groups + n_first // 16) * 4 + ((n >> 4) * 4 + ((n >> 1) & 3))
    r0, r1, r2, r3 = tl.philox(seed, n_group, m_group, pair.to(tl.int32), 0, PHILOX_ROUNDS)
    n_upper = (n & 8) != 0
    word = tl.where((m & 8) != 0, tl.where(n_upper, r3, r2), tl.where(n_upper, r1, r0))
    upper = tl.where((n & 1) != 0, word, word << 16)
    return upper >= drop_below.to(tl.uint32) << 16


@triton.jit(do_not_specialize_on_alignment=VARYING)
def forward_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_own, t_own_strides, offsets_own, t_other, t_other_strides, offsets_other,
    padding, seed, drop_below, scale, out, out_strides, log_sum_exp, heads, height, width,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_X: tl.constexpr,
    SIDE_OWN: tl.constexpr, BY_AXIS_OWN: tl.constexpr,
    SIDE_OTHER: tl.constexpr, BY_AXIS_OTHER: tl.constexpr,
):  # fmt: skip
    """Write out (B, H, L, D) and log_sum_exp (B, H, L) float32 of the logits, of base 2.

    The backward kernels recompute the softmax from log_sum_exp; it is 0 if all keys are padding.
    """
    DTYPE: tl.constexpr = q.dtype.element_ty
    tiles_in_row = tl.cdiv(width, BLOCK_O)
    pair, image, head = image_and_head(height, tiles_in_row, heads)
    m_row, m_first, m_col, m = owned_tokens(height, width, tiles_in_row, BLOCK_O)
    q_tile = load_features(
        feature_addresses(q, q_strides, image, head, m, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    if seed is not None:
        seed = tl.load(seed)
    if padding is not None:
        padding += image * (height * width)
    if t_own is not None:
        t_own += image * t_own_strides[0] + head * t_own_strides[1]
    if t_other is not None:
        t_other += image * t_other_strides[0] + head * t_other_strides[1]

    largest = tl.full((BLOCK_O,), float("-inf"), tl.float32)
    totals = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)  # summed over the chunk at the end
    result = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
    for chunk in range(tl.cdiv(width, BLOCK_X)):
        first = chunk * BLOCK_X
        n_col = first + tl.arange(0, BLOCK_X)
        clamped = tl.minimum(n_col, width - 1)
        surplus = tl.where(n_col < width, 0.0, float("-inf"))
        k_addresses = feature_addresses(k, k_strides, image, head, clamped, BLOCK_D)
        v_addresses = feature_addresses(v, v_strides, image, head, clamped, BLOCK_D)
        d_col = tl.minimum(m_col, width - 1)[:, None] - clamped[None, :]
        bias = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
        base = 0
        if t_own is not None:
            buckets = column_buckets(
                offsets_own, m_row, d_col, height, width, SIDE_OWN, BY_AXIS_OWN
            )
            base = row_base(offsets_own, m_row, height, width, SIDE_OWN, BY_AXIS_OWN)
            bias = as_product(look_up(t_own, t_own_strides, base, m[:, None], buckets), DTYPE)
        if t_other is not None:
            other_buckets = column_buckets(
                offsets_other, -m_row, -d_col, height, width, SIDE_OTHER, BY_AXIS_OTHER
            )
        for n_row in range(height):
            row = (n_row * width).to(tl.int64)
            k_chunk = load_features(k_addresses + row * k_strides[2], HEAD_DIM, BLOCK_D)
            v_chunk = load_features(v_addresses + row * v_strides[2], HEAD_DIM, BLOCK_D)
            start = bias
            if t_other is not None:
                start += look_up_others(
                    t_other, t_other_strides, offsets_other, row.to(tl.int32) + clamped[None, :],
                    other_buckets, n_row - m_row, -d_col, height, width, SIDE_OTHER, BY_AXIS_OTHER,
                )  # fmt: skip
            logits = product(q_tile, tl.trans(k_chunk), start)
            mask = surplus
            if padding is not None:
                mask += tl.load(padding + row + clamped)
            logits += mask[None, :]

            # Online softmax: sums so far are rescaled when a larger logit appears.
            now_largest = tl.maximum(largest, tl.max(logits, 1) * LOG2_E)
            # As long as there was only padding, -inf - -inf would be NaN.
            shift = tl.where(now_largest == float("-inf"), 0.0, now_largest)
            weights = tl.exp2(logits * LOG2_E - shift[:, None])
            rescale = tl.exp2(largest - shift)[:, None]
            totals = totals * rescale + weights
            if seed is not None:
                # Not in totals: dropout acts on the normalised weights.
                kept = is_kept(
                    seed, pair, m_row, m_first, tl.arange(0, BLOCK_O)[:, None],
                    n_row, first, tl.arange(0, BLOCK_X)[None, :], width, drop_below,
                )  # fmt: skip
                weights = tl.where(kept, weights, 0.0)
            result = product(weights.to(v_chunk.dtype), v_chunk, result * rescale)
            largest = now_largest

            if t_own is not None:
                d_row = m_row - tl.minimum(n_row + 1, height - 1)
                if BY_AXIS_OWN:
                    now_base = row_base(offsets_own, d_row, height, width, SIDE_OWN, True)
                    if now_base != base:
                        bias = look_up(t_own, t_own_strides, now_base, m[:, None], buckets)
                        bias = as_product(bias, DTYPE)
                        base = now_base
                else:
                    buckets = bucket_of(offsets_own, d_row, d_col, height, width)
                    bias = look_up(t_own, t_own_strides, 0, m[:, None], buckets)

    # If all keys are padding the output is 0, as in torch's scaled_dot_product_attention.
    total = tl.sum(totals, 1)
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    result = result * (scale / total)[:, None]
    owned = m_col < width
    store_features(out, out_strides, image, head, m, owned, result, HEAD_DIM, BLOCK_D)
    of_row = tl.where(empty, 0.0, largest + tl.log2(total))
    tl.store(log_sum_exp + pair * (height * width) + m, of_row, mask=owned)
