"""Triton kernels of attention with RPE: forward, and backward over queries and over keys.

B images, H heads, D features of a head, N buckets; L tokens: extra ones, then those of a map row by
row. Queries and keys have a map each, which may differ in height and width.

Every program owns a tile: BLOCK_O consecutive tokens of a row of the map, of one image and head
(queries in `forward_kernel` and `backward_queries_kernel`, keys in `backward_keys_kernel`). It goes
over all tokens of the other side as flash attention does, in chunks of BLOCK_X columns: over the
columns in the outer loop, over the rows in the inner one. The tile is the first axis of products.
Extra tokens are a row of their own after the last one of the map: tiles of their own, and chunks
with a single row after those of the map. They are in the kernel only with EXTRA.

A bucket of `product` is (row bucket) * side + (column bucket). Column buckets of tile and chunk
stay the same within the inner loop. All pairs of a step have the same row bucket, and as it follows
the row offset it changes only a few times: in a run of steps without a change, what the tile looks
up is the same, and stays in registers. What is summed by bucket (weights, or the gradient of what
was looked up) is added up over the run, too, and then once by column bucket. For other methods
every step is a run of its own.

Tiles and chunks may reach over the end of a row. Their columns are then clamped, so that every
address is valid, and the surplus tokens are masked where they would count.

Tensors are passed as pointer and strides: (B, H, L, D) for q, k, v, out and (B, H, L, N) for the
tables, which may be None: t_own belongs to the tile's tokens, t_other to the others, t_value to the
queries: the gradient of the sums by bucket, which RPE on values is made of. Logits and sums are
float32, whatever the inputs: 16 bits would lose the small terms of long sums. Exponents are of base
2, as the GPU's instruction has them.
"""
