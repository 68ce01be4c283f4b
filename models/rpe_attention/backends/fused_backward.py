"""Triton kernels of the backward pass of attention with RPE.

Names, tiles and chunks are those of `fused_forward`. Logits are recomputed, as in flash attention.
There are two kernels, because a sum is bitwise reproducible without atomics only if one program
owns it: dq and dt_k are sums over keys, dk, dv and dt_q are sums over queries.
"""

import triton
import triton.language as tl

from .fused_forward import (
    SIZES_OF_MAP,
    base_bucket,
    bucket_of,
    chunk_of_row,
    entry_addresses,
    image_and_head,
    is_kept,
    load_features,
    logits_of,
    not_padding,
    owned_tokens,
    product,
    store_features,
)


@triton.jit
def _add_by_bucket(
    sums, d_logits, local, axis: tl.constexpr, SEGMENT: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Sum d_logits along `axis` by their bucket in the segment, into sums (owned, BLOCK_S)."""
    lane = tl.arange(0, BLOCK_S)[None, :]
    for number in range(SEGMENT):
        part = tl.sum(tl.where(local == number, d_logits, 0.0), axis)
        sums = tl.where(lane == number, sums + part[:, None], sums)
    return sums


@triton.jit
def _store_segment(
    dt, strides, image, head, ids, base, sums, mask, SEGMENT: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Write the complete sums of a segment of buckets to the table's gradient."""
    lane = tl.arange(0, BLOCK_S)[None, :]
    addresses = entry_addresses(dt, strides, image, head, ids[:, None], base[:, None] + lane)
    mask = mask[:, None] & (lane < SEGMENT)
    tl.store(addresses, sums.to(dt.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize_on_alignment=SIZES_OF_MAP)
def backward_queries_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
    padding, seed, dropout_p, d_out, d_out_strides, log_sum_exp, delta,
    dq, dq_strides, dt_k, dt_k_strides, heads, height, width,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SEGMENT: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Write dq (B, H, L, D) and dt_k (B, H, L, N).

    delta (B, H, L) float32 is the sum of out * d_out over features: the softmax's backward pass
    needs the sum of weights * d_weights over keys, which equals it.
    """
    length = height * width
    num_tiles = tl.cdiv(length, BLOCK_M)
    pair, image, head = image_and_head(num_tiles, heads)
    ids, m, m_row, m_col = owned_tokens(num_tiles, length, width, BLOCK_M)
    q_tile = load_features(q, q_strides, image, head, m, HEAD_DIM, BLOCK_D)
    d_out_tile = load_features(d_out, d_out_strides, image, head, m, HEAD_DIM, BLOCK_D)
    of_row = tl.load(log_sum_exp + pair * length + m)[:, None]
    delta_tile = tl.load(delta + pair * length + m)[:, None]

    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_S), tl.float32)
    base = m * 0
    if t_k is not None:
        base = base_bucket(offsets_k, m_row, height, width, SEGMENT)
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
        weights = tl.exp(tl.where(valid[None, :], logits, float("-inf")) - of_row)
        d_weights = product(d_out_tile, tl.trans(v_chunk))
        if seed is not None:
            kept = is_kept(seed, pair, m, n, length, dropout_p)
            d_weights = tl.where(kept, d_weights / (1 - dropout_p), 0.0)
        d_logits = weights * (d_weights - delta_tile)
        result += product(d_logits.to(k_chunk.dtype), k_chunk)

        if t_k is not None:
            # Another segment begins: the sums of the last one are complete.
            now_base = base_bucket(offsets_k, m_row - n_row, height, width, SEGMENT)
            complete = now_base != base
            _store_segment(
                dt_k, dt_k_strides, image, head, ids, base, sums, complete & (ids < length),
                SEGMENT, BLOCK_S,
            )  # fmt: skip
            sums = tl.where(complete[:, None], 0.0, sums)
            base = now_base
            local = bucket_of(offsets_k, d_row, d_col, height, width) - base[:, None]
            sums = _add_by_bucket(sums, d_logits, local, 1, SEGMENT, BLOCK_S)

    store_features(dq, dq_strides, image, head, ids, length, result, HEAD_DIM, BLOCK_D)
    if t_k is not None:
        _store_segment(
            dt_k, dt_k_strides, image, head, ids, base, sums, ids < length, SEGMENT, BLOCK_S
        )


@triton.jit(do_not_specialize_on_alignment=SIZES_OF_MAP)
def backward_keys_kernel(
    q, q_strides, k, k_strides, v, v_strides,
    t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
    padding, seed, dropout_p, d_out, d_out_strides, log_sum_exp, delta,
    dk, dk_strides, dv, dv_strides, dt_q, dt_q_strides, heads, height, width,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SEGMENT: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Write dk, dv (B, H, L, D) and dt_q (B, H, L, N); delta is that of the other kernel."""
    length = height * width
    num_tiles = tl.cdiv(length, BLOCK_N)
    pair, image, head = image_and_head(num_tiles, heads)
    ids, n, n_row, n_col = owned_tokens(num_tiles, length, width, BLOCK_N)
    k_tile = load_features(k, k_strides, image, head, n, HEAD_DIM, BLOCK_D)
    v_tile = load_features(v, v_strides, image, head, n, HEAD_DIM, BLOCK_D)
    attended = (ids < length) & not_padding(padding, image, length, n)

    dk_tile = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv_tile = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    sums = tl.zeros((BLOCK_N, BLOCK_S), tl.float32)
    base = n * 0
    if t_q is not None:
        base = base_bucket(offsets_q, n_row, height, width, SEGMENT)
    chunks_in_row = tl.cdiv(width, BLOCK_M)
    for step in range(height * chunks_in_row):
        m_row, m_col, m, valid = chunk_of_row(step, chunks_in_row, width, BLOCK_M)
        q_chunk = load_features(q, q_strides, image, head, m, HEAD_DIM, BLOCK_D)
        d_out_chunk = load_features(d_out, d_out_strides, image, head, m, HEAD_DIM, BLOCK_D)
        # Infinity makes the weights of surplus queries exp(-inf) = 0.
        of_row = tl.load(log_sum_exp + pair * length + m, mask=valid, other=float("inf"))
        delta_chunk = tl.load(delta + pair * length + m)
        d_row, d_col = m_row - n_row[None, :], m_col[:, None] - n_col[None, :]
        logits = logits_of(
            q_chunk, k_tile, image, head, m, n, d_row, d_col, height, width,
            t_k, t_k_strides, offsets_k, t_q, t_q_strides, offsets_q,
        )  # fmt: skip
        weights = tl.exp(tl.where(attended[None, :], logits, float("-inf")) - of_row[:, None])
        d_weights = product(d_out_chunk, tl.trans(v_tile))
        dropped = weights
        if seed is not None:
            kept = is_kept(seed, pair, m, n, length, dropout_p)
            dropped = tl.where(kept, weights / (1 - dropout_p), 0.0)
            d_weights = tl.where(kept, d_weights / (1 - dropout_p), 0.0)
        d_logits = weights * (d_weights - delta_chunk[:, None])
        dv_tile += product(tl.trans(dropped.to(d_out_chunk.dtype)), d_out_chunk)
        dk_tile += product(tl.trans(d_logits.to(q_chunk.dtype)), q_chunk)

        if t_q is not None:
            now_base = base_bucket(offsets_q, n_row - m_row, height, width, SEGMENT)
            complete = now_base != base
            _store_segment(
                dt_q, dt_q_strides, image, head, ids, base, sums, complete & (ids < length),
                SEGMENT, BLOCK_S,
            )  # fmt: skip
            sums = tl.where(complete[:, None], 0.0, sums)
            base = now_base
            local = bucket_of(offsets_q, -d_row, -d_col, height, width) - base[None, :]
            sums = _add_by_bucket(sums, d_logits, local, 0, SEGMENT, BLOCK_S)

    store_features(dk, dk_strides, image, head, ids, length, dk_tile, HEAD_DIM, BLOCK_D)
    store_features(dv, dv_strides, image, head, ids, length, dv_tile, HEAD_DIM, BLOCK_D)
    if t_q is not None:
        _store_segment(
            dt_q, dt_q_strides, image, head, ids, base, sums, ids < length, SEGMENT, BLOCK_S
        )
