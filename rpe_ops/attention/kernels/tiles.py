"""Which tokens a program works on, and their features."""

import triton
import triton.language as tl

# Triton recompiles a kernel for arguments that are multiples of 16. These vary from batch to batch,
# so that the gain would not be worth it.
VARYING = (
    "q_height", "q_width", "q_skip", "height", "width", "skip",
    "t_own_strides", "t_other_strides", "t_value_strides", "d_table_strides", "drop_below",
)  # fmt: skip
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def owned_tile(height, width, skip, BLOCK_O: tl.constexpr, EXTRA: tl.constexpr):
    """Return the program's tile of a map of height x width after `skip` extra tokens.

    Returns:
        Image * heads + head, in 64 bits for addresses; row (height for extra tokens); first column;
        the columns' number in the row; all columns; their clamped token ids; whether these are
        extra tokens.
    """
    tiles_in_row = tl.cdiv(width, BLOCK_O)
    of_map = height * tiles_in_row
    tiles = of_map
    if EXTRA:
        tiles += tl.cdiv(skip, BLOCK_O)
    tile = tl.program_id(0) % tiles
    row = tile // tiles_in_row
    first = tile % tiles_in_row * BLOCK_O
    in_row = width
    begin = row * width
    extra = tile < 0
    if EXTRA:
        extra = tile >= of_map
        row = tl.where(extra, height, row)
        first = tl.where(extra, (tile - of_map) * BLOCK_O, first)
        in_row = tl.where(extra, skip, width)
        begin = tl.where(extra, 0, begin + skip)
    cols = first + tl.arange(0, BLOCK_O)
    ids = begin + tl.minimum(cols, in_row - 1)
    return (tl.program_id(0) // tiles).to(tl.int64), row, first, in_row, cols, ids, extra


@triton.jit
def number_of_chunks(width, skip, BLOCK_X: tl.constexpr, EXTRA: tl.constexpr):
    """Return in how many chunks the columns of a map, and extra tokens, are."""
    chunks = tl.cdiv(width, BLOCK_X)
    if EXTRA:
        chunks += tl.cdiv(skip, BLOCK_X)
    return chunks


@triton.jit
def chunk_of(chunk, height, width, skip, BLOCK_X: tl.constexpr, EXTRA: tl.constexpr):
    """Return what a chunk of columns is, as `owned_tile` does.

    Returns:
        First row; number of rows; id of the first row's first token; first column; columns in the
        row; all columns; clamped ones; whether these are extra tokens.
    """
    first = chunk * BLOCK_X
    in_row = width
    row = chunk * 0
    rows = height
    begin = chunk * 0
    extra = chunk < 0
    if EXTRA:
        of_map = tl.cdiv(width, BLOCK_X)
        extra = chunk >= of_map
        first = tl.where(extra, (chunk - of_map) * BLOCK_X, first)
        in_row = tl.where(extra, skip, width)
        row = tl.where(extra, height, 0)
        rows = tl.where(extra, 1, height)
        begin = tl.where(extra, 0, skip)
    cols = first + tl.arange(0, BLOCK_X)
    return row, rows, begin, first, in_row, cols, tl.minimum(cols, in_row - 1), extra


@triton.jit
def centre(position, length, other, SCALED: tl.constexpr):
    """Return the row of `other` in which the centre of one of `length` rows lies (`irpe.MapPair`).

    The same of columns; without SCALED the maps have the same size.
    """
    if SCALED:
        position = (2 * position + 1) * other // (2 * length)
    return position


# ---- features and products ----


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


INTERPRETED = tl.constexpr(not isinstance(feature_addresses, triton.runtime.JITFunction))


@triton.jit
def product(a, b, start):
    """Compute start + a @ b in float32, without TensorFloat-32's rounding of the inputs."""
    if INTERPRETED:  # the interpreter stores bfloat16 as integers and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, start, input_precision="ieee")


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
