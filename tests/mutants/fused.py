"""Mistakes in the Triton kernels of attention, and in how they are launched."""

KERNELS = "rpe_ops/attention/kernels"
FORWARD, TILES = f"{KERNELS}/forward.py", f"{KERNELS}/tiles.py"
BUCKETS, DROPOUT = f"{KERNELS}/buckets.py", f"{KERNELS}/dropout.py"
BY_QUERIES, BY_KEYS = f"{KERNELS}/backward_queries.py", f"{KERNELS}/backward_keys.py"
OPS, FUSED = "rpe_ops/attention/fused_ops.py", "rpe_ops/attention/fused.py"
FORMULAS = "test_fused_attention.py::test_it_is_the_formulas[qk]"
RUNS = "test_fused_attention.py::test_steps_that_share_a_row_bucket"
DRAWS = "test_fused_attention.py::test_which_weights_dropout_keeps_is_documented"
FUNCTION = "test_fused_function.py::test_it_is_the_formula"
LONG = "test_fused_function.py::test_rows_longer_than_a_tile"
MANY = "test_fused_function.py::test_tables_of_many_buckets"
LATE = "test_fused_function.py::test_large_logits_come_late"
EMPTY = "test_fused_function.py::test_an_image_of_padding_has_no_sums"

MUTANTS = [
    ("fused: the bias of the run before", FORWARD, "if now_base != base:", "if now_base > base:",
     RUNS),
    ("fused: a query's gradient of the last step of a run alone", BY_QUERIES,
     "run * scale, None, None,", "d_logits * scale, None, None,", RUNS),
    ("fused: a key's gradient of the last step of a run alone", BY_KEYS,
     "run * scale, None, None,", "d_logits * scale, None, None,", RUNS),
    ("fused: runs overwrite each other", BUCKETS, "so_far + sums, mask=valid", "sums, mask=valid",
     "test_fused_attention.py::test_maps_of_any_size[3-17-product-1.9]"),
    ("fused: gradients of keys that are padding", BY_KEYS,
     "attended &= tl.load(padding + image * len_k + n) == 0",
     "attended &= tl.load(padding + image * len_k + n) != 1", FORMULAS),
    ("fused: surplus keys are attended", FORWARD,
     'surplus = tl.where(n_col < in_row, 0.0, float("-inf"))',
     "surplus = tl.where(n_col < in_row, 0.0, 0.0)", FORMULAS),
    ("fused: two keys of a draw share its bits", DROPOUT, "word, word << 16)", "word, word)",
     DRAWS),
    ("fused: other words for queries and keys", DROPOUT,
     "tl.where(n_upper, r3, r2), tl.where(n_upper, r1, r0)",
     "tl.where(n_upper, r3, r1), tl.where(n_upper, r2, r0)", DRAWS),
    ("fused: images and heads drop the same", DROPOUT, "pair.to(tl.int32), 0, PHILOX",
     "0, 0, PHILOX", DRAWS),
    # ---- extra tokens ----
    ("fused: extra tokens in the bucket of no offset", BUCKETS,
     "buckets = tl.where(extra, SIDE * SIDE if BY_AXIS else SIDE, buckets)", "pass", FUNCTION),
    ("fused: extra tokens' own gradients lost", BUCKETS, "        if extra:\n",
     "        if not extra:\n", FUNCTION),
    ("fused: the map begins before its extra tokens", TILES,
     "begin = tl.where(extra, 0, begin + skip)", "begin = tl.where(extra, 0, begin)", FUNCTION),
    ("fused: extra tokens as long as a row", TILES,
     "in_row = tl.where(extra, skip, width)\n        begin", "begin", LONG),
    ("fused: one tile of extra tokens", TILES, "first = tl.where(extra, (tile - of_map) * BLOCK_O,",
     "first = tl.where(extra, 0,", LONG),
    ("fused: extra keys of the row's first chunk alone", FORWARD,
     "extra |= m_extra", "extra = m_extra", FUNCTION),
    ("fused: extra queries not noticed by keys", BY_KEYS, "extra |= n_extra", "extra = n_extra",
     FUNCTION),
    # ---- two maps ----
    ("fused: the first row of a query", TILES,
     "position = (2 * position + 1) * other // (2 * length)",
     "position = (2 * position) * other // (2 * length)", FUNCTION),
    ("fused: columns scaled as rows", FORWARD,
     "tl.minimum(m_col, q_width - 1), q_width, width, SCALED",
     "tl.minimum(m_col, q_width - 1), q_height, height, SCALED", FUNCTION),
    ("fused: gradients of queries by the keys' map", BY_KEYS,
     "minus_d_row = centre(m_row, q_height, height, SCALED) - n_row",
     "minus_d_row = m_row - n_row", FUNCTION),
    # ---- values ----
    ("fused: sums of weights before dropout's factor", OPS, ".exp2_().mul_(scale))", ".exp2_())",
     "test_fused_trial.py::test_the_formula_is_the_reference[ctx]"),
    ("fused: sums not rescaled within a run", FORWARD, "run = run * rescale + weights",
     "run = run + weights", LATE),
    ("fused: sums not rescaled between runs", BUCKETS,
     'so_far *= tl.exp2(before - tl.where(largest == float("-inf"), 0.0, largest))', "pass", LATE),
    ("fused: sums of an image of padding are not numbers", BUCKETS,
     'before - tl.where(largest == float("-inf"), 0.0, largest)', "before - largest", EMPTY),
    ("fused: gradient of the softmax without the sums", OPS,
     "delta = delta + (sums * d_sums).sum(-1)", "pass", FUNCTION),
    ("fused: weights' gradient without the sums, over queries", BY_QUERIES,
     "tl.trans(v_chunk), bias_value)", "tl.trans(v_chunk), zeros)", FUNCTION),
    ("fused: weights' gradient without the sums, over keys", BY_KEYS,
     "d_weights = product(v_tile, tl.trans(d_out_chunk), start)",
     "d_weights = product(v_tile, tl.trans(d_out_chunk), zeros)", FUNCTION),
    ("fused: rows and columns of cross on values exchanged", FUSED, "for axis in (-1, -2)",
     "for axis in (-2, -1)", FUNCTION),
    ("fused: cross loses its extra bucket", FUSED,
     "if both[0].shape[-1] > side:", "if False:", FUNCTION),
    # ---- many buckets ----
    ("fused: the last bucket of a chunk lost", BUCKETS, "for number in range(first, last + 1):",
     "for number in range(first, last):", MANY),
]  # fmt: skip
