"""Mistakes in the transformer, attention and relative positions."""

TRANSFORMER, DROPOUT = "models/transformer.py", "models/layers.py"
DECODER_LAYER = "models/decoder_layer.py"
FUNCTION = "models/rpe_attention/rpe_attention_function.py"
LAYER = "models/rpe_attention/multi_head_attention.py"
CALL, SDPA_BACKEND = "rpe_ops/attention/call.py", "rpe_ops/attention/sdpa.py"
MATH = "rpe_ops/attention/math.py"
CPU = "rpe_ops/attention/cpu.py"
ENCODINGS = "rpe_ops/attention/encodings.py"
LOOKED_UP = "test_cpu_encodings.py::test_equals_the_formula[product-qkv-shared-1]"
TRIAL = "rpe_ops/attention/trial.py"
FUSED_CHECK = "rpe_ops/attention/fused_check.py"
FAILS = "test_fused_trial.py::test_a_kernel_that_fails_is_tried_once"
CHOICE = "rpe_ops/attention/choice.py"
IRPE = "rpe_ops/irpe.py"
ENCODER = "test_transformer.py::test_encoder_layer_is_torchs"
DECODER = "test_transformer.py::test_decoder_layer_is_torchs"
STACKS = "test_transformer.py::test_stacks_and_their_norms"
PLACES = "test_transformer.py::test_positions_are_added_to_queries_and_keys_not_to_values"
DROPS = "test_transformer.py::test_each_dropout_acts_alone_and_in_training_only"
LOOP = "test_attention.py::test_with_rpe_it_is_the_loop[product-ctx-qkv-False]"
TORCHS = "test_attention.py::test_without_rpe_it_is_torchs"
IDS = "test_irpe.py::test_bucket_ids_follow_the_formulas"
CACHE = "test_irpe.py::test_ids_of_one_map_are_kept_apart_by_ratio_method_and_extra_tokens"
SDPA = "test_cpu_attention.py::test_equals_scaled_dot_product_attention"
CHOSEN = (
    "test_fused_layer.py::test_auto_takes_fused_on_gpus_where_it_should_win_or_memory_demands_it"
)
PAIRS = "test_rpe_attention.py::test_buckets_between_two_maps"
PAIR_LOOP = "test_rpe_attention.py::test_it_is_the_loop"
CENTRES = "test_rpe_attention.py::test_a_query_is_where_its_centre_is"
SUMS = "test_operators.py::test_references_equal_loops"

MUTANTS = [
    # ---- layers ----
    ("pre-norm encoder without its first norm", TRANSFORMER,
     "self.attend(self.norm1(src), padding, pos, hw)", "self.attend(src, padding, pos, hw)",
     ENCODER),
    ("pre-norm encoder with the wrong second norm", TRANSFORMER,
     "self.feed_forward(self.norm2(src))", "self.feed_forward(self.norm1(src))", ENCODER),
    ("post-norm encoder without its second norm", TRANSFORMER,
     "return self.norm2(src + self.dropout(self.feed_forward(src)))",
     "return src + self.dropout(self.feed_forward(src))", ENCODER),
    ("pre-norm encoder without its residual", TRANSFORMER,
     "return src + self.dropout(self.feed_forward(self.norm2(src)))",
     "return self.dropout(self.feed_forward(self.norm2(src)))", ENCODER),
    ("pre-norm decoder with the wrong second norm", DECODER_LAYER,
     "self.attend_memory(self.norm2(tgt)", "self.attend_memory(self.norm1(tgt)", DECODER),
    ("pre-norm decoder without its third norm", DECODER_LAYER, "self.feed_forward(self.norm3(tgt))",
     "self.feed_forward(tgt)", DECODER),
    ("post-norm decoder with the wrong third norm", DECODER_LAYER,
     "return self.norm3(tgt + self.dropout", "return self.norm2(tgt + self.dropout", DECODER),
    ("no norm behind a pre-norm encoder", TRANSFORMER,
     "nn.LayerNorm(d_model) if normalize_before else None", "None", STACKS),
    ("no norm behind the decoder's layers", TRANSFORMER, "outputs.append(self.norm(tgt))",
     "outputs.append(tgt)", STACKS),
    ("the norm between the decoder's layers", TRANSFORMER, "outputs.append(self.norm(tgt))",
     "tgt = self.norm(tgt); outputs.append(tgt)", STACKS),
    ("--pre_norm ignored", TRANSFORMER, "normalize_before=args.pre_norm",
     "normalize_before=False", "test_detr.py::test_state_dict_names[False-True]"),
    ("positions in the encoder's values", TRANSFORMER, "self.self_attn(q, k, x, padding,",
     "self.self_attn(q, k, k, padding,", PLACES),
    ("positions in the decoder's values", DECODER_LAYER,
     "x + query_pos, memory + pos, memory, key_padding_mask=padding",
     "x + query_pos, memory + pos, memory + pos, key_padding_mask=padding", PLACES),
    ("no query embedding in self-attention", DECODER_LAYER, "q = k = x + query_pos", "q = k = x",
     PLACES),
    ("the decoder sees padding", DECODER_LAYER, "memory, key_padding_mask=padding", "memory",
     DECODER),
    ("the decoder sees nothing but padding", TRANSFORMER, "masked_fill_(padding, -torch.inf)",
     "masked_fill_(~padding, -torch.inf)", STACKS),
    ("rows and columns of a batch exchanged", TRANSFORMER, "padding, pos, tuple(hw))",
     "padding, pos, tuple(hw)[::-1])", "test_transformer.py::test_the_encoder_is_told_the_size"),
    # ---- dropout ----
    ("no dropout in the decoder's self-attention", DECODER_LAYER,
     "self.self_attn = RPEMultiheadAttention(d_model, nhead, dropout)",
     "self.self_attn = RPEMultiheadAttention(d_model, nhead)", DROPS),
    ("no dropout in the decoder's attention to the image", DECODER_LAYER,
     "self.multihead_attn = RPEMultiheadAttention(d_model, nhead, dropout)",
     "self.multihead_attn = RPEMultiheadAttention(d_model, nhead)", DROPS),
    ("no dropout in the encoder's attention", TRANSFORMER,
     "d_model, nhead, dropout, rpe_config=rpe_config", "d_model, nhead, rpe_config=rpe_config",
     DROPS),
    ("no dropout in the feed-forward block", DROPOUT,
     "self.linear2(self.dropout(F.relu(self.linear1(rows))))",
     "self.linear2(F.relu(self.linear1(rows)))",
     "test_transformer.py::test_dropout_of_everything_leaves_the_residuals"),
    ("dropout of attention in evaluation", LAYER,
     "dropout_p=self.dropout if self.training else 0.0", "dropout_p=self.dropout",
     "test_attention.py::test_dropout_acts_in_training_only"),
    ("dropout without its scale", DROPOUT, "(x * mask).div_(ctx.keep_probability)", "x * mask",
     "test_cpu_attention.py::test_dropout_keeps_as_many_as_it_should_and_the_mean"),
    ("dropout keeps what it should drop", "rpe_ops/attention/dropout.py",
     "numbers >= dropped - STEPS // 2", "numbers < dropped - STEPS // 2",
     "test_cpu_attention.py::test_dropout_keeps_as_many_as_it_should_and_the_mean"),
    # ---- attention ----
    ("queries not scaled", "rpe_ops/attention/function.py", "AttentionCall(q * scale, k,",
     "AttentionCall(q, k,", TORCHS),
    ("keys not scaled for rpe on queries", CALL,
     "terms.append(look_up(rpe_q, k * scale,", "terms.append(look_up(rpe_q, k,", LOOP),
    ("rpe on queries not transposed", CALL,
     "maps, by_keys=True).transpose(2, 3))", "maps, by_keys=True))", LOOP),
    ("rpe on values lost", MATH, "out = out + look_up(call.rpe_v, weights, call.maps)", "pass",
     LOOP),
    ("only the last term of the logits", SDPA_BACKEND,
     "total.add_(term) if fresh and total.shape == shape else total + term", "term",
     "test_attention.py::test_without_gradients_it_is_the_same"),
    ("keys that a layer adds are masked like others", CALL,
     "F.pad(mask, (0, rest))", "F.pad(mask, (rest, 0))", TORCHS),
    ("chunks of heads mixed up", CPU, "images), slice(head, head + heads)",
     "images), slice(0, heads)", SDPA),
    ("gradient of keys without queries' scale", CPU,
     "grad_k[part] = chunk_grad_logits.mT @ q[part]",
     "grad_k[part] = chunk_grad_logits.mT @ q[part] / 2", SDPA),
    ("gradient ignores dropout", CPU, "chunk_grad_weights *= mask[part]", "pass",
     "test_cpu_attention.py::test_dropout_falls_on_the_same_weights_forward_and_backward"),
    ("looked up terms of every head are the first's", ENCODINGS, "rpe_index(table[part], ids)",
     "rpe_index(table[part].flip(1), ids)", LOOKED_UP.replace("-1]", "-98]")),
    ("looked up terms of keys not transposed", ENCODINGS,
     "logits += total.mT if self.by_keys else total", "logits += total", LOOKED_UP),
    ("gradient of looked up terms of keys not transposed", ENCODINGS,
     "grad = grad_logits.mT if self.by_keys else grad_logits", "grad = grad_logits", LOOKED_UP),
    ("keys not scaled where they are looked up", ENCODINGS,
     "x = call.k * call.scale if by_keys", "x = call.k if by_keys", LOOKED_UP),
    ("rows of values for all heads are the first's", ENCODINGS,
     "slice(0, 1) if self.table.shape[0] == 1 else heads",
     "slice(0, 1)", LOOKED_UP.replace("qkv-shared", "qkv-own")),
    ("gradient of weights without values", CPU,
     "chunk_grad_weights += value.weights_grad(grad[part], part[1])", "pass", LOOKED_UP),
    ("values of weights before dropout", CPU,
     "out[part] += value.of(dropped, part[1])", "out[part] += value.of(weights[part], part[1])",
     "test_cpu_encodings.py::test_dropout_is_before_values"),
    ("gradient of rows of the last part alone", CPU,
     "of_rows[value.rows_of(part[1])] +=", "of_rows[value.rows_of(part[1])] =", LOOKED_UP),
    # ---- relative positions ----
    ("ids cached without the ratio", IRPE, "key = (settings.method, settings.ratio, skip,",
     "key = (settings.method, skip,", CACHE),
    ("ids cached without the method", IRPE, "key = (settings.method, settings.ratio, skip",
     "key = (settings.ratio, skip", CACHE),
    ("ids of two maps cached without the side", IRPE, "settings.ratio, maps, by_keys, device)",
     "settings.ratio, maps, device)", PAIR_LOOP),
    ("ids of two maps cached without the method", IRPE,
     "key = (settings.method, settings.ratio, maps",
     "key = (settings.ratio, maps", PAIR_LOOP),
    ("the first row of a query's centre", IRPE, "(2 * torch.arange(length, device=device) + 1)",
     "(2 * torch.arange(length, device=device))", CENTRES),
    ("two maps: height and width of the queries' map exchanged", IRPE,
     "d_row = centres(q_height, height, device)", "d_row = centres(q_height, width, device)",
     PAIRS),
    ("two maps: keys' offsets without a sign", IRPE,
     "d_row, d_col, skip_own, skip_other = -d_row.T, -d_col.T, k_skip, q_skip",
     "d_row, d_col, skip_own, skip_other = d_row.T, d_col.T, k_skip, q_skip", PAIRS),
    ("two maps: extra tokens exchanged", IRPE, "skip_own, skip_other = q_skip, k_skip",
     "skip_own, skip_other = k_skip, q_skip", PAIRS),
    ("ids cached by the number of tokens alone", IRPE, "settings.ratio, skip, height, width, dev",
     "settings.ratio, skip, tokens, dev", CACHE),
    ("key minus query", IRPE, "d_row = rows[:, None] - rows + height - 1",
     "d_row = rows - rows[:, None] + height - 1", IDS),
    ("rows and columns of product exchanged", IRPE, "row_ids * settings.side + col_ids",
     "col_ids * settings.side + row_ids", IDS),
    ("beta is not truncated", IRPE, ".clamp(max=beta)", ".clamp(max=round(beta))",
     "test_irpe.py::test_far_offsets_share_the_last_bucket"),
    ("gamma is 4 times the ratio", IRPE, "return 8 * self.ratio", "return 4 * self.ratio", IDS),
    ("euclidean distance not rounded", IRPE, "distance.float().sqrt().round().long()",
     "distance.float().sqrt().long()", IDS),
    ("extra tokens share the last bucket of the image", IRPE,
     "value=extra) if skipped", "value=extra - 1) if skipped", IDS),
    ("cross without its columns", IRPE,
     "self.rp_rows(x, *where) + self.rp_cols(x, *where)", "self.rp_rows(x, *where)",
     "test_irpe.py::test_keys_and_queries"),
    ("heads share a table that is each one's", IRPE,
     "self.table_heads = 1 if settings.shared_head else num_heads", "self.table_heads = 1",
     "test_irpe.py::test_parameter_names_and_shapes"),
    ("the cache forgets the newest", "rpe_ops/cache.py", "popitem(last=False)",
     "popitem(last=True)", "test_irpe.py::test_cache_is_bounded_and_forgets_the_least_recent"),
    ("a bucket keeps the last value, not the sum", "rpe_ops/reference.py", "sums.scatter_add(3,",
     "sums.scatter(3,", SUMS),
    ("gradient of the table of one head", "rpe_ops/weighted_sum.py",
     '"h" if table.shape[0] > 1 else ""', '"h"',
     "test_attention.py::test_with_rpe_it_is_the_loop[product-ctx-qkv-True]"),
    ("ids beyond the table not noticed", "rpe_ops/functions.py",
     "if smallest < 0 or largest >= num_buckets:", "if smallest < 0:",
     "test_operator_checks.py::test_check_names_the_place"),
    # ---- trials on a machine's own devices ----
    ("fused kernels used untried", TRIAL, "reason = unusable = failure(_kind(call))",
     "reason = unusable = None", FAILS),
    ("a failed trial is made again", TRIAL, "if kind.device not in _failures and kind",
     "if kind", FAILS),
    ("a trial while a graph is made", TRIAL, "traced = torch.compiler.is_compiling()",
     "traced = False", "test_fused_trial.py::test_a_graph_has_no_trial_in_it"),
    ("Triton without tuples of strides used", "rpe_ops/attention/fused.py",
     "< OLDEST_TRITON", "< (3, 0)",
     "test_fused_trial.py::test_an_older_triton_is_not_tried[3.2.0]"),
    ("a trial passes numbers that are none", FUSED_CHECK,
     "if not all(difference <= TOLERANCE[kind.dtype] for",
     "if any(difference > TOLERANCE[kind.dtype] for",
     "test_fused_trial.py::test_wrong_numbers_are_noticed[nan]"),
    ("a trial without gradients", FUSED_CHECK, "for name, x in wanted.items()",
     'for name, x in wanted.items() if name == "output"',
     "test_fused_trial.py::test_wrong_numbers_are_noticed"),
    ("a trial in the caller's modes", FUSED_CHECK,
     "found = thread.submit(_differences, kind).result()", "found = _differences(kind)",
     "test_fused_trial.py::test_the_caller_keeps_its_random_streams_and_modes"),
    ("wrong kernels are ok", "rpe_ops/check.py", "self.difference <= self.tolerance",
     "self.difference <= 1", "test_check.py::test_a_wrong_kernel_fails"),
    ("float32 is fused by default", CHOICE, "(4, True): None", "(4, True): 512", CHOSEN),
    ("memory is no reason to fuse", CHOICE, "= 2**29", "= 2**40", CHOSEN),
]  # fmt: skip
