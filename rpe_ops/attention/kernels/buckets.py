"""What the kernels look up by bucket, and what they sum by bucket.

Pairs with an extra token, on either side, have one bucket of their own after those of the map.
`height` and `width` are those of the keys' map, in whose rows and columns offsets are counted.
SIDE: buckets of an axis. BY_AXIS: buckets are those of `product`.
"""

import triton
import triton.language as tl

LARGE_SIDE = tl.constexpr(32)  # from which on sums go over the buckets that occur alone


@triton.jit
def bucket_of(offsets, d_row, d_col, height, width):
    """Look up the buckets of offsets in the table made by `irpe.offset_buckets`."""
    return tl.load(offsets + (d_row + height - 1) * (2 * width - 1) + d_col + width - 1)


@triton.jit
def column_buckets(
    offsets, d_row, d_col, height, width, extra,
    SIDE: tl.constexpr, BY_AXIS: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """Return the part of buckets that is not the row's: with BY_AXIS the same for every d_row."""
    if EXTRA:
        d_row = tl.where(extra, 0, d_row)
        d_col = tl.where(extra, 0, d_col)
    buckets = bucket_of(offsets, d_row, d_col, height, width)
    if BY_AXIS:
        buckets %= SIDE
    if EXTRA:
        buckets = tl.where(extra, SIDE * SIDE if BY_AXIS else SIDE, buckets)
    return buckets


@triton.jit
def row_base(
    offsets, d_row, height, width, extra,
    SIDE: tl.constexpr, BY_AXIS: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """Return the first of the buckets of a row offset, a number."""
    base = d_row * 0
    if BY_AXIS:
        if EXTRA:
            d_row = tl.where(extra, 0, d_row)
        base = tl.load(offsets + (d_row + height - 1) * (2 * width - 1)) // SIDE * SIDE
        if EXTRA:
            base = tl.where(extra, 0, base)
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
    table, strides, offsets, tokens, buckets, d_row, d_col, height, width, extra,
    SIDE: tl.constexpr, BY_AXIS: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """Return what the others' tokens look up in a step, whose row offset is d_row.

    buckets are those of `column_buckets`. The tokens change with every step, so that there is no
    run of steps with the same result.
    """
    if not BY_AXIS:
        buckets = column_buckets(offsets, d_row, d_col, height, width, extra, SIDE, False, EXTRA)
    base = row_base(offsets, d_row, height, width, extra, SIDE, BY_AXIS, EXTRA)
    return look_up(table, strides, base, tokens, buckets)


# ---- sums ----


@triton.jit
def add_run(
    entries, stride, base, valid, lanes, run, references, largest, extra,
    SIDE: tl.constexpr, BY_AXIS: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """Add a run's numbers to entries base + lanes of each token.

    The entries are the program's own: no other one adds to them.

    Args:
        entries: (tile,) addresses of the tokens' first entries.
        lanes: (tile, chunk) float32, as they went through `as_product`: from 0 to SIDE - 1.
        run: (tile, chunk) float32.
        references: None, or like entries: each entry is to be multiplied by 2 to the power of its
            reference, as the run's numbers are by that of `largest`, (tile,).
    """
    if EXTRA:
        if extra:
            own = (SIDE * SIDE if BY_AXIS else SIDE) * stride
            sums = tl.sum(run, 1)
            _add(entries + own, sums, references, own, largest, valid, True)
        else:
            _add_by_lane(
                entries, base * stride, stride, valid, lanes, run, references, largest, SIDE
            )
    else:
        _add_by_lane(entries, base * stride, stride, valid, lanes, run, references, largest, SIDE)


@triton.jit
def _add(addresses, sums, references, offset, largest, valid, SHARED: tl.constexpr):
    """Add to entries; with SHARED, several threads hold the same one."""
    if SHARED:
        # What one of them has stored, another one loads in the next run.
        tl.debug_barrier()
    so_far = tl.load(addresses, mask=valid, other=0.0)
    if references is not None:
        before = tl.load(references + offset, mask=valid, other=float("-inf"))
        # As long as there was only padding, -inf - -inf would be NaN.
        so_far *= tl.exp2(before - tl.where(largest == float("-inf"), 0.0, largest))
        tl.store(references + offset, tl.broadcast_to(largest, so_far.shape), mask=valid)
    tl.store(addresses, so_far + sums, mask=valid)


@triton.jit
def _add_by_lane(entries, base, stride, valid, lanes, run, references, largest, SIDE: tl.constexpr):
    if SIDE > LARGE_SIDE:
        # A chunk has few of many buckets.
        first = tl.min(tl.min(lanes, 1), 0).to(tl.int32)
        last = tl.max(tl.max(lanes, 1), 0).to(tl.int32)
        for number in range(first, last + 1):
            part = tl.sum(tl.where(lanes == number, run, 0.0), 1)
            at = base + number * stride
            _add(entries + at, part, references, at, largest, valid, True)
    else:
        BLOCK_S: tl.constexpr = 4 if SIDE <= 4 else (8 if SIDE <= 8 else (16 if SIDE <= 16 else 32))
        lane = tl.arange(0, BLOCK_S)[None, :]
        sums = tl.full((run.shape[0], BLOCK_S), 0.0, tl.float32)
        for number in tl.static_range(SIDE):
            part = tl.sum(tl.where(lanes == number, run, 0.0), 1)
            sums = tl.where(lane == number, part[:, None], sums)
        at = base + lane * stride
        mask = valid[:, None] & (lane < SIDE)
        if references is not None:
            references = references[:, None]
            largest = largest[:, None]
        _add(entries[:, None] + at, sums, references, at, largest, mask, False)
