"""Triton kernels of the two operators, for CUDA devices that no compiled library serves.

B images, H heads, Lq queries, Lk keys, N buckets; a row r is b * H + h. A program owns a query and
BLOCK_R rows, which share the query's bucket ids, and goes over the keys in chunks. No program
writes what another one does, and each adds in a fixed order: no atomics, the same bits each time.

`lookup_kernel` copies. A query's part of a table is small and stays in the first-level cache.

`sum_kernel` multiplies by the ids' one-hot matrix, on tensor cores:

    sums[r, n] = sum over j of x[r, j] * one_hot[j, n],  one_hot[j, n] = (ids[j] == n)

They take 16 bits and add in float32, and 0 and 1 have 16 bits, so that each product is exact. A
float32 is the sum of three bfloat16 (24 bits are 3 x 8), hence three products with the same matrix.
For 81 buckets this takes 14 instructions for each value of 16 bits (32 rows) and 37 for float32 (16
rows); half of them make the matrix, which the rows share. A float32 product without tensor cores
would take one for each bucket, a masked sum two: at least 81 or 162.

In a product an infinity or NaN makes NaN of all other buckets of its row, as 0 * inf is NaN. Where
that happened, and for float64, a program adds up bucket by bucket instead (`sum_each_bucket`).

An id outside of [0, N) reads and writes nothing outside of the tensors, and makes NaN: of the value
looked up, or of all sums of its query. (The compiled kernels end with a device-side assertion,
which Triton's kernels only have in its debug mode.)

Offsets are of 64 bits. The number of keys, and strides between rows, are passed in units of VECTOR
elements, which tells the compiler how many neighbours may be read or written at once.
"""

import triton
import triton.language as tl

# These vary from batch to batch: no kernel of its own is compiled for 1 and multiples of 16.
SIZES = ("begin", "rows", "heads", "queries", "key_vectors", "buckets")


@triton.jit
def owned_rows(rows, PARTS, BLOCK_R: tl.constexpr):
    """Return this program's query, its rows (surplus ones >= rows), and which of PARTS it owns."""
    programs = tl.cdiv(rows, BLOCK_R) * PARTS  # of a query
    number = tl.program_id(0) % programs
    r = number // PARTS * BLOCK_R + tl.arange(0, BLOCK_R)
    return (tl.program_id(0) // programs).to(tl.int64), r, number % PARTS


INTERPRETED = tl.constexpr(not isinstance(owned_rows, triton.runtime.JITFunction))


@triton.jit
def row_offsets(r, heads, query, strides):
    """Return the offset of each row's first element, in units of the strides of b, h and i."""
    b, h = (r // heads).to(tl.int64), (r % heads).to(tl.int64)
    return b * strides[0] + h * strides[1] + query * strides[2]


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=("strides",))
def lookup_kernel(
    table, strides, index, out, begin, rows, heads, queries, key_vectors, buckets,
    VECTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write out[r, i, j] = table[r, i, index[i, j]] for the queries i from `begin` on.

    Args:
        table, strides: (B, H, Lq, N), and its strides in elements.
        index: (Lq, Lk) int32, contiguous.
        out: (B, H, Lq, Lk), contiguous.
        rows, key_vectors: B * H, and Lk / VECTOR.
    """
    query, r, _ = owned_rows(rows, 1, BLOCK_R)
    query += begin
    r = tl.minimum(r, rows - 1)  # surplus rows repeat the last one, which costs no masks
    tables = table + row_offsets(r, heads, query, strides)
    results = out + (r.to(tl.int64) * queries + query) * key_vectors * VECTOR
    ids_of_query = index + query * key_vectors * VECTOR
    keys = key_vectors * VECTOR
    for first in range(0, keys, BLOCK_K):
        j = first + tl.arange(0, BLOCK_K)
        ids = tl.load(ids_of_query + j, mask=j < keys, other=0)
        in_table = (ids >= 0) & (ids < buckets)
        addresses = tables[:, None] + (ids.to(tl.int64) * strides[3])[None, :]
        values = tl.load(addresses, mask=in_table[None, :], other=float("nan"))
        tl.store(results[:, None] + j[None, :], values, mask=(j < keys)[None, :])


# ---- sums ----


@triton.jit
def load_chunk(rows_of_x, stride, in_rows, ids_of_query, first, keys, BLOCK_K: tl.constexpr):
    """Return values (rows, BLOCK_K) and ids (BLOCK_K,) of keys from `first` on; 0 after the end."""
    j = first + tl.arange(0, BLOCK_K)
    addresses = rows_of_x[:, None] + (j.to(tl.int64) * stride)[None, :]
    values = tl.load(addresses, mask=in_rows[:, None] & (j < keys)[None, :], other=0.0)
    return values, tl.load(ids_of_query + j, mask=j < keys, other=0)


@triton.jit
def larger(largest, ids):
    """Return the largest ids so far, as unsigned numbers: negative ids are the largest."""
    return tl.maximum(largest, ids.to(tl.uint32, bitcast=True))


@triton.jit
def upper_half(x):
    """Return float32 without the last 16 bits: 8 bits of precision, as bfloat16 has."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def product(a, b, start):
    """Compute start + a @ b in float32; a and b have 16 bits."""
    if INTERPRETED:  # the interpreter stores bfloat16 as integers and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, start)


@triton.jit
def add_to_buckets(sums, values, ids, first, BLOCK_N: tl.constexpr):
    """Return sums (rows, BLOCK_N) of the buckets from `first` on, with a chunk of keys added."""
    n = first + tl.arange(0, BLOCK_N)
    one_hot = tl.where(ids[:, None] == n[None, :], 1.0, 0.0)
    if values.dtype == tl.float32:
        one_hot = one_hot.to(tl.bfloat16)
        high = upper_half(values)
        middle = upper_half(values - high)
        low = values - high - middle
        # Tensor cores cut off the bits that a sum has no place for: the sum of a chunk is added by
        # an addition, which rounds to nearest.
        chunk = product(low.to(tl.bfloat16), one_hot, tl.full(sums.shape, 0.0, tl.float32))
        chunk = product(middle.to(tl.bfloat16), one_hot, chunk)
        sums += product(high.to(tl.bfloat16), one_hot, chunk)
    else:
        sums = product(values, one_hot.to(values.dtype), sums)
    return sums


@triton.jit
def any_nan(sums):
    return tl.max(tl.max((sums != sums).to(tl.int32), 1), 0) > 0


@triton.jit
def store_sums(results, sums, first, buckets, in_rows, largest, BLOCK_N: tl.constexpr):
    """Store sums (rows, BLOCK_N) of the buckets from `first` on; NaN if an id was outside."""
    n = first + tl.arange(0, BLOCK_N)
    outside = tl.max(largest, 0) >= buckets.to(tl.uint32)
    sums = tl.where(outside, float("nan"), sums)
    mask = in_rows[:, None] & (n < buckets)[None, :]
    tl.store(results[:, None] + n[None, :], sums.to(results.dtype.element_ty), mask=mask)


@triton.jit
def sum_each_bucket(
    results, rows_of_x, stride, in_rows, ids_of_query, keys, buckets, first, end,
    DTYPE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Store the sums of the buckets [first, end), each by a pass over all keys, added in DTYPE."""
    for n in range(first, tl.minimum(end, buckets)):
        sums = tl.full((BLOCK_R, BLOCK_K), 0.0, DTYPE)
        largest = tl.full((BLOCK_K,), 0, tl.uint32)
        for key in range(0, keys, BLOCK_K):
            values, ids = load_chunk(rows_of_x, stride, in_rows, ids_of_query, key, keys, BLOCK_K)
            sums += tl.where((ids == n)[None, :], values.to(DTYPE), 0.0)
            largest = larger(largest, ids)
        store_sums(results, tl.sum(sums, 1)[:, None], n, buckets, in_rows, largest, 1)


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=("strides",))
def sum_kernel(
    x, strides, index, out, begin, rows, heads, queries, key_vectors, buckets,
    VECTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr, REST_N: tl.constexpr,
):  # fmt: skip
    """Write out[r, i, n] = sum of x[r, i, j] over the j with index[i, j] == n, i from `begin` on.

    A program owns BLOCK_N + REST_N buckets: two powers of two, or REST_N is 0.

    Args:
        x, strides: (B, H, Lq, Lk), and its strides: of b, h and i in units of VECTOR elements, of j
            in elements.
        index: (Lq, Lk) int32, contiguous.
        out: (B, H, Lq, N), contiguous.
        rows, key_vectors: B * H, and Lk / VECTOR.
    """
    OWNED: tl.constexpr = BLOCK_N + REST_N
    query, r, part = owned_rows(rows, tl.cdiv(buckets, OWNED), BLOCK_R)
    query += begin
    low = part * OWNED
    in_rows = r < rows
    rows_of_x = x + row_offsets(r, heads, query, strides) * VECTOR
    results = out + (r.to(tl.int64) * queries + query) * buckets
    ids_of_query = index + query * key_vectors * VECTOR
    keys = key_vectors * VECTOR
    if x.dtype.element_ty == tl.float64:
        sum_each_bucket(
            results, rows_of_x, strides[3], in_rows, ids_of_query, keys, buckets, low, low + OWNED,
            tl.float64, BLOCK_R, BLOCK_K,
        )  # fmt: skip
    else:
        sums = tl.full((BLOCK_R, BLOCK_N), 0.0, tl.float32)
        if REST_N > 0:
            rest = tl.full((BLOCK_R, REST_N), 0.0, tl.float32)
        largest = tl.full((BLOCK_K,), 0, tl.uint32)
        for first in range(0, keys, BLOCK_K):
            values, ids = load_chunk(
                rows_of_x, strides[3], in_rows, ids_of_query, first, keys, BLOCK_K
            )
            largest = larger(largest, ids)
            sums = add_to_buckets(sums, values, ids, low, BLOCK_N)
            if REST_N > 0:
                rest = add_to_buckets(rest, values, ids, low + BLOCK_N, REST_N)
        if any_nan(sums):
            sum_each_bucket(
                results, rows_of_x, strides[3], in_rows, ids_of_query, keys, buckets, low,
                low + OWNED, tl.float32, BLOCK_R, BLOCK_K,
            )  # fmt: skip
        else:
            store_sums(results, sums, low, buckets, in_rows, largest, BLOCK_N)
            if REST_N > 0:
                store_sums(results, rest, low + BLOCK_N, buckets, in_rows, largest, REST_N)
