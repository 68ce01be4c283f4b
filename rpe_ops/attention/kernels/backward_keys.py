"""Triton kernel of the backward pass over keys: dk, dv and the gradient of the keys' table."""

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
def backward_keys_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_own, t_own_strides, offsets_own, t_other, t_other_strides, offsets_other,
    t_value, t_value_strides, offsets_value,
    padding, seed, drop_below, scale, d_out, d_out_strides, log_sum_exp, delta,
    dk, dk_strides, dv, dv_strides, d_table, d_table_strides, heads,
    q_height, q_width, q_skip, height, width, skip,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_X: tl.constexpr,
    EXTRA: tl.constexpr, SCALED: tl.constexpr, SIDE_OWN: tl.constexpr, BY_AXIS_OWN: tl.constexpr,
    SIDE_OTHER: tl.constexpr, BY_AXIS_OTHER: tl.constexpr,
    SIDE_VALUE: tl.constexpr, BY_AXIS_VALUE: tl.constexpr,
):  # fmt: skip
    """Write dk, dv (B, H, Lk, D), and add to d_table (B, H, Lk, N) float32, which holds zeros.

    Logits are transposed here, (keys, queries), as the tile is of keys; delta and d_table are as in
    the other kernel.
    """
    if not SCALED:
        q_height = height
        q_width = width
    DTYPE: tl.constexpr = q.dtype.element_ty
    pair, n_row, n_first, n_in_row, n_col, n, n_extra = owned_tile(
        height, width, skip, BLOCK_O, EXTRA
    )
    image = pair // heads
    head = pair % heads
    len_q = q_height * q_width
    len_k = height * width
    if EXTRA:
        len_q += q_skip
        len_k += skip
    k_tile = load_features(
        feature_addresses(k, k_strides, image, head, n, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    v_tile = load_features(
        feature_addresses(v, v_strides, image, head, n, BLOCK_D), HEAD_DIM, BLOCK_D
    )
    owned = n_col < n_in_row
    attended = owned
    if padding is not None:
        attended &= tl.load(padding + image * len_k + n) == 0
    if seed is not None:
        seed = tl.load(seed)
        m_groups = groups_of_16(q_width, q_skip, EXTRA)
        n_groups = groups_of_16(width, skip, EXTRA)
    log_sum_exp += pair * len_q
    delta += pair * len_q
    if t_own is not None:
        t_own += image * t_own_strides[0] + head * t_own_strides[1]
        d_table += image * d_table_strides[0] + head * d_table_strides[1]
    if t_other is not None:
        t_other += image * t_other_strides[0] + head * t_other_strides[1]
    if t_value is not None:
        t_value += image * t_value_strides[0] + head * t_value_strides[1]

    dk_tile = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
    dv_tile = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
    zeros = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
    for chunk in range(number_of_chunks(q_width, q_skip, BLOCK_X, EXTRA)):
        first_row, rows, begin, first, in_row, m_col, clamped, extra = chunk_of(
            chunk, q_height, q_width, q_skip, BLOCK_X, EXTRA
        )
        if EXTRA:
            extra |= n_extra
        q_addresses = feature_addresses(q, q_strides, image, head, clamped, BLOCK_D)
        d_out_addresses = feature_addresses(d_out, d_out_strides, image, head, clamped, BLOCK_D)
        m_col_at = centre(clamped, q_width, width, SCALED)
        d_col = tl.minimum(n_col, width - 1)[:, None] - m_col_at[None, :]
        first_d_row = n_row - centre(0, q_height, height, SCALED)
        bias = zeros
        run = zeros
        base = 0
        if t_own is not None:
            buckets = column_buckets(
                offsets_own, first_d_row, d_col, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
            )
            base = row_base(
                offsets_own, first_d_row, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
            )
            bias = as_product(look_up(t_own, t_own_strides, base, n[:, None], buckets), DTYPE)
            lanes = as_product(buckets.to(tl.float32), DTYPE)
        if t_other is not None:
            other_buckets = column_buckets(
                offsets_other, -first_d_row, -d_col, height, width, extra,
                SIDE_OTHER, BY_AXIS_OTHER, EXTRA,
            )  # fmt: skip
        if t_value is not None:
            value_buckets = column_buckets(
                offsets_value, -first_d_row, -d_col, height, width, extra,
                SIDE_VALUE, BY_AXIS_VALUE, EXTRA,
            )  # fmt: skip
        for m_row in range(rows):
            row = (begin + m_row * q_width).to(tl.int64)
            tokens = row.to(tl.int32) + clamped[None, :]
            minus_d_row = centre(m_row, q_height, height, SCALED) - n_row
            q_chunk = load_features(q_addresses + row * q_strides[2], HEAD_DIM, BLOCK_D)
            d_out_chunk = load_features(d_out_addresses + row * d_out_strides[2], HEAD_DIM, BLOCK_D)
            # Infinity makes the weights of surplus queries exp(-inf) = 0.
            of_row = tl.load(log_sum_exp + row + clamped, mask=m_col < in_row, other=float("inf"))
            delta_chunk = tl.load(delta + row + clamped)
            start = bias
            if t_other is not None:
                start += look_up_others(
                    t_other, t_other_strides, offsets_other, tokens, other_buckets,
                    minus_d_row, -d_col, height, width, extra, SIDE_OTHER, BY_AXIS_OTHER, EXTRA,
                )  # fmt: skip
            logits = product(k_tile, tl.trans(q_chunk), start)
            # Not masked where the tile's keys are padding: their results are, at the end.
            weights = tl.exp2(logits * LOG2_E - of_row[None, :])
            start = zeros
            if t_value is not None:
                start = look_up_others(
                    t_value, t_value_strides, offsets_value, tokens, value_buckets,
                    minus_d_row, -d_col, height, width, extra, SIDE_VALUE, BY_AXIS_VALUE, EXTRA,
                )  # fmt: skip
            d_weights = product(v_tile, tl.trans(d_out_chunk), start)
            dropped = weights
            if seed is not None:
                kept = is_kept(
                    seed, pair, first_row + m_row, first, tl.arange(0, BLOCK_X)[None, :], m_groups,
                    n_row, n_first, tl.arange(0, BLOCK_O)[:, None], n_groups, drop_below,
                )  # fmt: skip
                dropped = tl.where(kept, weights, 0.0)
                d_weights = tl.where(kept, d_weights, 0.0)
            d_logits = weights * (d_weights - delta_chunk[None, :])
            dv_tile = product(dropped.to(d_out_chunk.dtype), d_out_chunk, dv_tile)
            dk_tile = product(d_logits.to(q_chunk.dtype), q_chunk, dk_tile)

            if t_own is not None:
                run += d_logits
                following = m_row + 1
                d_row = n_row - centre(
                    tl.minimum(following, q_height - 1), q_height, height, SCALED
                )
                now_base = row_base(
                    offsets_own, d_row, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
                )
                if (now_base != base) | (following == rows) | (not BY_AXIS_OWN):
                    add_run(
                        d_table + n * d_table_strides[2], d_table_strides[3], base, attended, lanes,
                        run * scale, None, None, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA,
                    )  # fmt: skip
                    run = zeros
                    if not BY_AXIS_OWN:
                        buckets = column_buckets(
                            offsets_own, d_row, d_col, height, width, extra, SIDE_OWN, False, EXTRA
                        )
                        lanes = as_product(buckets.to(tl.float32), DTYPE)
                    bias = look_up(t_own, t_own_strides, now_base, n[:, None], buckets)
                    bias = as_product(bias, DTYPE)
                    base = now_base

    dk_tile = tl.where(attended[:, None], dk_tile * scale, 0.0)
    dv_tile = tl.where(attended[:, None], dv_tile * scale, 0.0)
    store_features(dk, dk_strides, image, head, n, owned, dk_tile, HEAD_DIM, BLOCK_D)
    store_features(dv, dv_strides, image, head, n, owned, dv_tile, HEAD_DIM, BLOCK_D)
