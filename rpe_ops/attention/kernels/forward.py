"""Triton kernel of the forward pass of attention with RPE; see the package's docstring."""

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
def forward_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_own, t_own_strides, offsets_own, t_other, t_other_strides, offsets_other,
    sums, references, offsets_value, padding, seed, drop_below, scale,
    out, out_strides, log_sum_exp, heads,
    q_height, q_width, q_skip, height, width, skip,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_X: tl.constexpr,
    EXTRA: tl.constexpr, SCALED: tl.constexpr, SIDE_OWN: tl.constexpr, BY_AXIS_OWN: tl.constexpr,
    SIDE_OTHER: tl.constexpr, BY_AXIS_OTHER: tl.constexpr,
    SIDE_VALUE: tl.constexpr, BY_AXIS_VALUE: tl.constexpr,
):  # fmt: skip
    """Write out (B, H, Lq, D) and log_sum_exp (B, H, Lq) float32 of the logits, of base 2.

    The backward kernels recompute the softmax from log_sum_exp; it is 0 if all keys are padding.

    With RPE on values, weights are summed by bucket into sums (B, H, Lq, N) float32, which holds
    zeros: as the largest logit so far was, which comes into references, like sums, at first -inf.
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
    if seed is not None:
        seed = tl.load(seed)
        m_groups = groups_of_16(q_width, q_skip, EXTRA)
        n_groups = groups_of_16(width, skip, EXTRA)
    if padding is not None:
        padding += image * len_k
    if t_own is not None:
        t_own += image * t_own_strides[0] + head * t_own_strides[1]
    if t_other is not None:
        t_other += image * t_other_strides[0] + head * t_other_strides[1]
    if sums is not None:
        BUCKETS: tl.constexpr = (SIDE_VALUE * SIDE_VALUE if BY_AXIS_VALUE else SIDE_VALUE) + EXTRA
        first_entries = (pair * len_q + m) * BUCKETS
        sums += first_entries
        references += first_entries

    largest = tl.full((BLOCK_O,), float("-inf"), tl.float32)
    totals = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)  # summed over the chunk at the end
    result = tl.full((BLOCK_O, BLOCK_D), 0.0, tl.float32)
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
        bias = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
        base = 0
        if t_own is not None:
            buckets = column_buckets(
                offsets_own, m_row_at, d_col, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
            )
            base = row_base(
                offsets_own, m_row_at, height, width, extra, SIDE_OWN, BY_AXIS_OWN, EXTRA
            )
            bias = as_product(look_up(t_own, t_own_strides, base, m[:, None], buckets), DTYPE)
        if t_other is not None:
            other_buckets = column_buckets(
                offsets_other, -m_row_at, -d_col, height, width, extra,
                SIDE_OTHER, BY_AXIS_OTHER, EXTRA,
            )  # fmt: skip
        if sums is not None:
            run = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
            base_value = row_base(
                offsets_value, m_row_at, height, width, extra, SIDE_VALUE, BY_AXIS_VALUE, EXTRA
            )
            value_buckets = column_buckets(
                offsets_value, m_row_at, d_col, height, width, extra,
                SIDE_VALUE, BY_AXIS_VALUE, EXTRA,
            )  # fmt: skip
            lanes = as_product(value_buckets.to(tl.float32), DTYPE)
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
                    seed, pair, m_row, m_first, tl.arange(0, BLOCK_O)[:, None], m_groups,
                    first_row + n_row, first, tl.arange(0, BLOCK_X)[None, :], n_groups, drop_below,
                )  # fmt: skip
                weights = tl.where(kept, weights, 0.0)
            result = product(weights.to(v_chunk.dtype), v_chunk, result * rescale)
            largest = now_largest

            following = n_row + 1
            d_row = m_row_at - tl.minimum(following, height - 1)
            if sums is not None:
                run = run * rescale + weights
                now_base = row_base(
                    offsets_value, d_row, height, width, extra, SIDE_VALUE, BY_AXIS_VALUE, EXTRA
                )
                if (now_base != base_value) | (following == rows) | (not BY_AXIS_VALUE):
                    add_run(
                        sums, 1, base_value, owned, lanes, run, references, largest, extra,
                        SIDE_VALUE, BY_AXIS_VALUE, EXTRA,
                    )  # fmt: skip
                    run = tl.full((BLOCK_O, BLOCK_X), 0.0, tl.float32)
                    base_value = now_base
                    if not BY_AXIS_VALUE:
                        value_buckets = column_buckets(
                            offsets_value, d_row, d_col, height, width, extra,
                            SIDE_VALUE, False, EXTRA,
                        )  # fmt: skip
                        lanes = as_product(value_buckets.to(tl.float32), DTYPE)
            if t_own is not None:
                if BY_AXIS_OWN:
                    now_base = row_base(
                        offsets_own, d_row, height, width, extra, SIDE_OWN, True, EXTRA
                    )
                    if now_base != base:
                        bias = look_up(t_own, t_own_strides, now_base, m[:, None], buckets)
                        bias = as_product(bias, DTYPE)
                        base = now_base
                else:
                    buckets = column_buckets(
                        offsets_own, d_row, d_col, height, width, extra, SIDE_OWN, False, EXTRA
                    )
                    bias = look_up(t_own, t_own_strides, 0, m[:, None], buckets)

    # If all keys are padding the output is 0, as in torch's scaled_dot_product_attention.
    total = tl.sum(totals, 1)
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    result = result * (scale / total)[:, None]
    store_features(out, out_strides, image, head, m, owned, result, HEAD_DIM, BLOCK_D)
    of_row = tl.where(empty, 0.0, largest + tl.log2(total))
    tl.store(log_sum_exp + pair * len_q + m, of_row, mask=owned)
