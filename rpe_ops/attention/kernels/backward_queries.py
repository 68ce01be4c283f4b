"""Triton kernel of the backward pass over queries: dq and the gradient of their table.

Logits are recomputed, as in flash attention. Backward has two kernels, because a sum is bitwise
reproducible without atomics only if one program owns it: dq and the gradient of the queries' table
are sums over keys, dk, dv and the gradient of the keys' table are sums over queries.

Dropout scales the weights that it keeps: not each weight, but sums are multiplied by that factor,
and `delta` is divided by it.
"""

import triton
import triton.language as tl

from .buckets import add_run, column_buckets, look_up, look_up_others, row_base
from .dropout import groups_of_16, is_kept
from .tiles import (
    LOG2_E,
    VARYING,
    as_product,
    centre,
    chunk_of,
    feature_addresses,
    load_features,
    number_of_chunks,
    owned_tile,
    product,
    store_features,
)


@triton.jit(do_not_specialize_on_alignment=VARYING)
def backward_queries_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_own, t_own_strides, offsets_own, t_other, t_other_strides, offsets_other,
    t_value, t_value_strides, offsets_value,
    padding, seed, drop_below, scale, d_out, d_out_strides, log_sum_exp, delta,
    dq, dq_strides, d_table, d_table_strides, heads,
    q_height, q_width, q_skip, height, width, skip,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_X: tl.constexpr,
    EXTRA: tl.constexpr, SCALED: tl.constexpr, SIDE_OWN: tl.constexpr, BY_AXIS_OWN: tl.constexpr,
    SIDE_OTHER: tl.constexpr, BY_AXIS_OTHER: tl.constexpr,
    SIDE_VALUE: tl.constexpr, BY_AXIS_VALUE: tl.constexpr,
):  # fmt: skip
    """Write dq (B, H, Lq, D), and add to d_table (B, H, Lq, N) float32, which holds zeros.

    delta (B, H, Lq) float32 is the sum of out * d_out over features, and of sums by bucket *
    t_value, divided by `scale`: the softmax's backward pass needs the sum of weights * d_weights
    over keys, which equals that.
    """
    if not SCALED:
        q_height = height
        q_width = width
    DTYPE: tl.constexpr = q.dtype.element_ty
    pair, m_row, m_first, m_in_row, m_col, m, m_extra = owned_tile(
        q_height, q_width, q_skip, BLOCK_O, EXTRA
    )
    image = pair // heads
    head = pair % heads
    len_q = q_height * q_width
    len_k = height * width
    if EXTRA:
        len_q += q_skip
        len_k += skip
    owned = m_col < m_in_row
    m_row_at = centre(m_row, q_height, height, SCALED)
    m_col_at = centre(tl.minimum(m_col, q_width - 1), q_width, width, SCALED)
    q_tile = load_features(
        feature_addresses(q, q_strides, image, head, m, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    d_out_tile = load_features(
        feature_addresses(d_out, d_out_strides, image, head, m, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    of_row = tl.load(log_sum_exp + pair * len_q + m)[:, None]
    delta_tile = tl.load(delta + pair * len_q + m)[:, None]
    if seed is not None:
        seed = tl.load(seed)
        m_groups = groups_of_16(q_width, q_skip, EXTRA)
        n_groups = groups_of_16(width, skip, EXTRA)
    if padding is not None:
        padding += image * len_k
    if t_own is not None:
        t_own += image * t_own_strides[0] + head * t_own_strides[1]
        d_table += image * d_table_strides[0] + head * d_table_strides[1]
    if t_other is not None:
        t_other += image * t_other_strides[0] + head * t_other_strides[1]
    if t_value is not None:
        t_value += image * t_value_strides[0] + head * t_value_strides[1]

    result = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
    zeros = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
    for chunk in range(number_of_chunks(width, skip, BLOCK_X, EXTRA)):
        first_row, rows, begin, first, in_row, n_col, clamped, extra = chunk_of(
            chunk, height, width, skip, BLOCK_X, EXTRA
        )
        if EXTRA:
            extra |= m_extra
        surplus = tl.where(n_col < in_row, 0.0, float("-inf"))
        k_addresses = feature_addresses(k, k_strides, image, head, clamped, BLOCK_D)
        v_addresses = feature_addresses(v, v_strides, image, head, clamped, BLOCK_D)
        d_col = m_col_at[:, None] - clamped[None, :]
        bias = zeros
        bias_value = zeros
        run = zeros
        base = 0
        base_value = 0
        if t_own is not None:
            buckets = column_buckets(
                offsets_own, m_row_at, d_col, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
            )
            base = row_base(
                offsets_own, m_row_at, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
            )
            bias = as_product(look_up(t_own, t_own_strides, base, m[:, None], buckets), DTYPE)
            lanes = as_product(buckets.to(tl.float32), DTYPE)
        if t_other is not None:
            other_buckets = column_buckets(
                offsets_other, -m_row_at, -d_col, height, width, extra,
                SIDE_OTHER, BY_AXIS_OTHER, EXTRA,
            )  # fmt: skip
        if t_value is not None:
            value_buckets = column_buckets(
                offsets_value, m_row_at, d_col, height, width, extra,
                SIDE_VALUE, BY_AXIS_VALUE, EXTRA,
            )  # fmt: skip
            base_value = row_base(
                offsets_value, m_row_at, height, width, extra, SIDE_VALUE, BY_AXIS_VALUE, EXTRA
            )
            bias_value = as_product(
                look_up(t_value, t_value_strides, base_value, m[:, None], value_buckets), DTYPE
            )
        for n_row in range(rows):
            row = (begin + n_row * width).to(tl.int64)
            k_chunk = load_features(k_addresses + row * k_strides[2], HEAD_DIM, BLOCK_D)
            v_chunk = load_features(v_addresses + row * v_strides[2], HEAD_DIM, BLOCK_D)
            start = bias
            if t_other is not None:
                start += look_up_others(
                    t_other, t_other_strides, offsets_other, row.to(tl.int32) + clamped[None, :],
                    other_buckets, n_row - m_row_at, -d_col, height, width, extra,
                    SIDE_OTHER, BY_AXIS_OTHER, EXTRA,
                )  # fmt: skip
            logits = product(q_tile, tl.trans(k_chunk), start)
            mask = surplus
            if padding is not None:
                mask += tl.load(padding + row + clamped)
            weights = tl.exp2((logits + mask[None, :]) * LOG2_E - of_row)
            d_weights = product(d_out_tile, tl.trans(v_chunk), bias_value)
            if seed is not None:
                kept = is_kept(
                    seed, pair, m_row, m_first, tl.arange(0, BLOCK_O)[:, None], m_groups,
                    first_row + n_row, first, tl.arange(0, BLOCK_X)[None, :], n_groups, drop_below,
                )  # fmt: skip
                d_weights = tl.where(kept, d_weights, 0.0)
            d_logits = weights * (d_weights - delta_tile)
            result = product(d_logits.to(k_chunk.dtype), k_chunk, result)

            following = n_row + 1
            d_row = m_row_at - tl.minimum(following, height - 1)
            if t_own is not None:
                run += d_logits
                now_base = row_base(
                    offsets_own, d_row, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
                )
                if (now_base != base) | (following == rows) | (not BY_AXIS_OWN):
                    add_run(
                        d_table + m * d_table_strides[2], d_table_strides[3], base, owned, lanes,
                        run * scale, None, None, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA,
                    )  # fmt: skip
                    run = zeros
                    if not BY_AXIS_OWN:
                        buckets = column_buckets(
                            offsets_own, d_row, d_col, height, width, extra, SIDE_OWN, False, EXTRA
                        )
                        lanes = as_product(buckets.to(tl.float32), DTYPE)
                    bias = look_up(t_own, t_own_strides, now_base, m[:, None], buckets)
                    bias = as_product(bias, DTYPE)
                    base = now_base
            if t_value is not None:
                now_base = row_base(
                    offsets_value, d_row, height, width, extra, SIDE_VALUE, BY_AXIS_VALUE, EXTRA
                )
                if (now_base != base_value) | (not BY_AXIS_VALUE):
                    if not BY_AXIS_VALUE:
                        value_buckets = column_buckets(
                            offsets_value, d_row, d_col, height, width, extra,
                            SIDE_VALUE, False, EXTRA,
                        )  # fmt: skip
                    bias_value = look_up(
                        t_value, t_value_strides, now_base, m[:, None], value_buckets
                    )
                    bias_value = as_product(bias_value, DTYPE)
                    base_value = now_base

    result *= scale
    store_features(dq, dq_strides, image, head, m, owned, result, HEAD_DIM, BLOCK_D)
