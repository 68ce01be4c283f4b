"""Triton kernels of the backward pass of attention with RPE.

Names, tiles, chunks and runs are those of `fused_forward`. Logits are recomputed, as in flash
attention. There are two kernels, because a sum is bitwise reproducible without atomics only if one
program owns it: dq and the gradient of the queries' table are sums over keys, dk, dv and the
gradient of the keys' table are sums over queries.

Dropout scales the weights that it keeps: not each weight, but sums are multiplied by that factor,
and `delta` is divided by it.
"""

import triton
import triton.language as tl

from .fused_forward import (
    LOG2_E,
    VARYING,
    as_product,
    bucket_of,
    column_buckets,
    feature_addresses,
    image_and_head,
    is_kept,
    load_features,
    look_up,
    look_up_others,
    owned_tokens,
    product,
    row_base,
    store_features,
)


@triton.jit
def _add_run(
    d_table, strides, base, tokens, valid, lanes, d_logits, scale,
    SIDE: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Add a run's d_logits (tile, chunk) to entries base + lanes, each from 0 to SIDE - 1.

    lanes is float32, as it went through `as_product`. The entries are the program's own: no other
    one adds to them.
    """
    lane = tl.arange(0, BLOCK_S)[None, :]
    sums = tl.full((d_logits.shape[0], BLOCK_S), 0.0, tl.float32)
    for number in tl.static_range(SIDE):
        part = tl.sum(tl.where(lanes == number, d_logits, 0.0), 1)
        sums = tl.where(lane == number, part[:, None], sums)
    addresses = d_table + (tokens[:, None] * strides[2] + (base + lane) * strides[3])
    mask = valid[:, None] & (lane < SIDE)
    so_far = tl.load(addresses, mask=mask, other=0.0)
    tl.store(addresses, so_far + sums * scale, mask=mask)


@triton.jit(do_not_specialize_on_alignment=VARYING)
def backward_queries_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_own, t_own_strides, offsets_own, t_other, t_other_strides, offsets_other,
    padding, seed, drop_below, scale, d_out, d_out_strides, log_sum_exp, delta,
    dq, dq_strides, d_table, d_table_strides, heads, height, width,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_X: tl.constexpr,
    SIDE_OWN: tl.constexpr, BY_AXIS_OWN: tl.constexpr,
    SIDE_OTHER: tl.constexpr, BY_AXIS_OTHER: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Write dq (B, H, L, D), and add to d_table (B, H, L, N) float32, which holds zeros.

    delta (B, H, L) float32 is the sum of out * d_out over features, divided by `scale`: the
    softmax's backward pass needs the sum of weights * d_weights over keys, which equals the sum.
    """
    length = height * width
    DTYPE: tl.constexpr = q.dtype.element_ty
    tiles_in_row = tl.cdiv(width, BLOCK_O)
    pair, image, head = image_and_head(height, tiles_in_row, heads)
    m_row, m_first, m_col, m = owned_tokens(height, width, tiles_in_row, BLOCK_O)
    q_tile = load_features(
        feature_addresses(q, q_strides, image, head, m, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    d_out_tile = load_features(
        feature_addresses(d_out, d_out_strides, image, head, m, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    of_row = tl.load(log_sum_exp + pair * length + m)[:, None]
    delta_tile = tl.load(delta + pair * length + m)[:, None]
    owned = m_col < width
    if seed is not None:
        seed = tl.load(seed)
    if padding is not None:
        padding += image * length
    if t_own is not None:
        t_own += image * t_own_strides[0] + head * t_own_strides[1]
        d_table += image * d_table_strides[0] + head * d_table_strides[1]
    if t_other is not None:
        t_other += image * t_other_strides[0] + head * t_other_strides[1]

    result = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
    zeros = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
    for chunk in range(tl.cdiv(width, BLOCK_X)):
        first = chunk * BLOCK_X
        n_col = first + tl.arange(0, BLOCK_X)
        clamped = tl.minimum(n_col, width - 1)
        surplus = tl.where(n_col < width, 0.0, float("-inf"))
        k_addresses = feature_addresses(k, k_strides, image, head, clamped, BLOCK_D)
        v_addresses = feature_addresses(v, v_strides, image, head, clamped, BLOCK_D)
        d_col = tl.minimum(m_col, width - 1)[:, None] - clamped[None, :]
        bias = zeros
        run = zeros
        base = 0
        if t_own is not None:
            buckets = column_buckets(
                offsets_own, m_row, d_col, height, width, SIDE_OWN, BY_AXIS_OWN
            )
            base = row_base(offsets_own, m_row, height, width, SIDE_OWN, BY_AXIS_OWN)
            bias = as_product(look_up(t_own, t_own_strides, base, m[:, None], buckets), DTYPE)
            lanes = as_product(buckets.to(tl.float32), DTYPE)
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
            weights = tl.exp2((logits + mask[None, :]) * LOG2_E - of_row)
            d_weights = product(d_out_tile, tl.trans(v_chunk), zeros)
            if seed is not None:
                kept = is_kept(
                    seed, pair, m_row, m_first, tl.arange(0, BLOCK_O)[:, None],
                    n_row, first, tl.arange(0, BLOCK_X)[None, :], width, drop_below,
                )  # fmt: skip
                d_weights = tl.where(kept, d_weights, 0.0)
            d_logits = weights * (d_weights - delta_tile)
            result = product(d_logits.to(k_chunk.dtype), k_chunk, result)

            if t_own is not None:
                run += d_logits
                following = n_row + 1
                d_row = m_row - tl.minimum(following, height - 1)
                now_base = row_base(offsets_own, d_row, height, width, SIDE_OWN, BY_AXIS_OWN)
                if (now_base != base) | (following == height) | (not BY_AXIS_OWN):
                    _add_run(
                        d_table, d_table_strides, base, m, owned, lanes, run, scale,
                        SIDE_OWN, BLOCK_S,
                    )  # fmt: skip
                    run = zeros
                    if not BY_AXIS_OWN:
                        buckets = bucket_of(offsets_own, d_row, d_col, height, width)
                        lanes = as_product(buckets.to(tl.float32), DTYPE)
                    bias = look_up(t_own, t_own_strides, now_base, m[:, None], buckets)
                    bias = as_product(bias, DTYPE)
                    base = now_base

    result *= scale
    store_features(dq, dq_strides, image, head, m, owned, result, HEAD_DIM, BLOCK_D)


@triton.jit(do_not_specialize_on_alignment=VARYING)
def backward_keys_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_own, t_own_strides, offsets_own, t_other, t_other_strides, offsets_other,
    padding, seed, drop_below, scale, d_out, d_out_strides, log_sum_exp, delta,
    dk, dk_strides, dv, dv_strides, d_table, d_table_strides, heads, height, width,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_X: tl.constexpr,
    SIDE_OWN: tl.constexpr, BY_AXIS_OWN: tl.constexpr,
    SIDE_OTHER: tl.constexpr, BY_AXIS_OTHER: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Write dk, dv (B, H, L, D), and add to d_table (B, H, L, N) float32, which holds zeros.

    Logits are transposed here, (keys, queries), as the tile is of keys; delta is that of the other
    kernel.
    """
    length = height * width
    DTYPE: tl.constexpr = q.dtype.element_ty
    tiles_in_row = tl.cdiv(width, BLOCK_O)
    pair, image, head = image_and_head(height, tiles_in_row, heads)
    n_row, n_first, n_col, n = owned_tokens(height, width, tiles_in_row, BLOCK_O)
    k_tile = load_features(
        feature_addresses(k, k_strides, image, head, n, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    v_tile = load_features(
        feature_addresses(v, v_strides, image, head, n, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    owned = n_col < width
    attended = owned
    if padding is not None:
        attended &= tl.load(padding + image * length + n) == 0
    if seed is not None:
        seed = tl.load(seed)
    log_sum_exp += pair * length
    delta += pair * length
    if t_own is not None:
        t_own += image * t_own_strides[0] + head * t_own_strides[1]
        d_table += image * d_table_strides[0] + head * d_table_strides[1]
    if t_other is not None:
        t_other += image * t_other_strides[0] + head * t_other_strides[1]

    dk_tile = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
    dv_tile = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
    zeros = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
    for chunk in range(tl.cdiv(width, BLOCK_X)):
        first = chunk * BLOCK_X
        m_col = first + tl.arange(0, BLOCK_X)
        clamped = tl.minimum(m_col, width - 1)
        q_addresses = feature_addresses(q, q_strides, image, head, clamped, BLOCK_D)
        d_out_addresses = feature_addresses(d_out, d_out_strides, image, head, clamped, BLOCK_D)
        d_col = tl.minimum(n_col, width - 1)[:, None] - clamped[None, :]
        bias = zeros
        run = zeros
        base = 0
        if t_own is not None:
            buckets = column_buckets(
                offsets_own, n_row, d_col, height, width, SIDE_OWN, BY_AXIS_OWN
            )
            base = row_base(offsets_own, n_row, height, width, SIDE_OWN, BY_AXIS_OWN)
            bias = as_product(look_up(t_own, t_own_strides, base, n[:, None], buckets), DTYPE)
            lanes = as_product(buckets.to(tl.float32), DTYPE)
        if t_other is not None:
            other_buckets = column_buckets(
                offsets_other, -n_row, -d_col, height, width, SIDE_OTHER, BY_AXIS_OTHER
            )
        for m_row in range(height):
            row = (m_row * width).to(tl.int64)
            q_chunk = load_features(q_addresses + row * q_strides[2], HEAD_DIM, BLOCK_D)
            d_out_chunk = load_features(d_out_addresses + row * d_out_strides[2], HEAD_DIM, BLOCK_D)
            # Infinity makes the weights of surplus queries exp(-inf) = 0.
            of_row = tl.load(log_sum_exp + row + clamped, mask=m_col < width, other=float("inf"))
            delta_chunk = tl.load(delta + row + clamped)
            start = bias
            if t_other is not None:
                start += look_up_others(
                    t_other, t_other_strides, offsets_other, row.to(tl.int32) + clamped[None, :],
                    other_buckets, m_row - n_row, -d_col, height, width, SIDE_OTHER, BY_AXIS_OTHER,
                )  # fmt: skip
            logits = product(k_tile, tl.trans(q_chunk), start)
            # Not masked where the tile's keys are padding: their results are, at the end.
            weights = tl.exp2(logits * LOG2_E - of_row[None, :])
            d_weights = product(v_tile, tl.trans(d_out_chunk), zeros)
            dropped = weights
            if seed is not None:
                kept = is_kept(
                    seed, pair, m_row, first, tl.arange(0, BLOCK_X)[None, :],
                    n_row, n_first, tl.arange(0, BLOCK_O)[:, None], width, drop_below,
                )  # fmt: skip
                dropped = tl.where(kept, weights, 0.0)
                d_weights = tl.where(kept, d_weights, 0.0)
            d_logits = weights * (d_weights - delta_chunk[None, :])
            dv_tile = product(dropped.to(d_out_chunk.dtype), d_out_chunk, dv_tile)
            dk_tile = product(d_logits.to(q_chunk.dtype), q_chunk, dk_tile)

            if t_own is not None:
                run += d_logits
                following = m_row + 1
                d_row = n_row - tl.minimum(following, height - 1)
                now_base = row_base(offsets_own, d_row, height, width, SIDE_OWN, BY_AXIS_OWN)
                if (now_base != base) | (following == height) | (not BY_AXIS_OWN):
                    _add_run(
                        d_table, d_table_strides, base, n, attended, lanes, run, scale,
                        SIDE_OWN, BLOCK_S,
                    )  # fmt: skip
                    run = zeros
                    if not BY_AXIS_OWN:
                        buckets = bucket_of(offsets_own, d_row, d_col, height, width)
                        lanes = as_product(buckets.to(tl.float32), DTYPE)
                    bias = look_up(t_own, t_own_strides, now_base, n[:, None], buckets)
                    bias = as_product(bias, DTYPE)
                    base = now_base

    dk_tile = tl.where(attended[:, None], dk_tile * scale, 0.0)
    dv_tile = tl.where(attended[:, None], dv_tile * scale, 0.0)
    store_features(dk, dk_strides, image, head, n, owned, dk_tile, HEAD_DIM, BLOCK_D)
    store_features(dv, dv_strides, image, head, n, owned, dv_tile, HEAD_DIM, BLOCK_D)
