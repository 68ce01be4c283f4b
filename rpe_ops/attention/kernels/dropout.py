"""Which weights dropout drops: random numbers that do not depend on how the work is divided."""

import triton
import triton.language as tl

# The fewest rounds with which Philox passes BigCrush (Salmon et al., "Parallel random numbers: as
# easy as 1, 2, 3", 2011).
PHILOX_ROUNDS = tl.constexpr(7)


@triton.jit
def groups_of_16(width, skip, EXTRA: tl.constexpr):
    """Return how many groups of 16 columns the longest row has, that of extra tokens included."""
    groups = (width + 15) // 16
    if EXTRA:
        groups = tl.maximum(groups, (skip + 15) // 16)
    return groups


@triton.jit
def is_kept(seed, pair, m_row, m_first, m, m_groups, n_row, n_first, n, n_groups, drop_below):
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

    Extra tokens are a row after the last one; if it is longer than the others, G is of its length.
    """
    m_group = (m_row * m_groups + m_first // 16) * 8 + ((m >> 4) * 8 + (m & 7))
    n_group = (n_row * n_groups + n_first // 16) * 4 + ((n >> 4) * 4 + ((n >> 1) & 3))
    r0, r1, r2, r3 = tl.philox(seed, n_group, m_group, pair.to(tl.int32), 0, PHILOX_ROUNDS)
    n_upper = (n & 8) != 0
    word = tl.where((m & 8) != 0, tl.where(n_upper, r3, r2), tl.where(n_upper, r1, r0))
    upper = tl.where((n & 1) != 0, word, word << 16)
    return upper >= drop_below.to(tl.uint32) << 16
