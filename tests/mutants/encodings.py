"""Mistakes in rotary encodings, in the continuous bias, and where their strings are read."""

ROTARY, BIAS = "models/rpe_attention/rotary.py", "models/rpe_attention/continuous_bias.py"
STRINGS, FITTING = "models/rpe_attention/enc_rpe2d.py", "models/rpe_attention/fitting.py"
LAYER = "models/rpe_attention/multi_head_attention.py"
FUNCTION = "models/rpe_attention/rpe_attention_function.py"
TRANSFORMER, FINETUNE = "models/transformer.py", "checkpoints/finetune.py"
OPTIONS = "argument_checks.py"
MAPS, SHOWN = "tools/rpe_inspection/attention_maps.py", "tools/rpe_inspection/formula_maps.py"
COMPLEX = "test_rotary.py::test_logits_are_those_of_complex_numbers"
LOOP = "test_continuous_bias.py::test_it_is_the_loop"
WAYS = "test_other_encodings.py::test_every_way_computes_the_formula"
FIRST = "test_other_encodings.py::test_the_transformer_leaves_first_values_alone"
STARTS = "test_rotary.py::test_mixed_frequencies_start_as_published"
GRAPHS = "test_other_encodings.py::test_graphs_have_maps_of_any_size"
BASE = "test_infer_options.py::test_frequencies_tell_their_base"
BITS = "test_rotary.py::test_angles_have_32_bits_where_features_have_16"
TWO_MAPS = "test_other_encodings.py::test_what_is_not_one_map_is_refused"
UNFIT = "test_other_encodings.py::test_options_that_do_not_fit"
PARTS = "test_attention_maps.py::test_the_parts_give_the_weights_of_the_pass"
AROUND = "test_formula_maps.py::test_a_bias_is_that_of_the_keys_around_the_query"

MUTANTS = [
    # ---- rotary encoding ----
    ("axial rotation with rows and columns exchanged", ROTARY,
     "torch.cat([along_columns, along_rows], dim=-1)",
     "torch.cat([along_rows, along_columns], dim=-1)", COMPLEX),
    ("mixed rotation with rows and columns exchanged", ROTARY,
     "of_columns, of_rows = self.freqs", "of_rows, of_columns = self.freqs", COMPLEX),
    ("keys are not turned", ROTARY, "return turned(q, cos, sin), turned(k, cos, sin)",
     "return turned(q, cos, sin), k", COMPLEX),
    ("queries are not turned", ROTARY, "return turned(q, cos, sin), turned(k, cos, sin)",
     "return q, turned(k, cos, sin)", COMPLEX),
    ("keys turn the other way", ROTARY, "turned(k, cos, sin)", "turned(k, cos, -sin)", COMPLEX),
    ("rotation with a wrong sign", ROTARY, "odd * cos + even * sin", "odd * cos - even * sin",
     "test_rotary.py::test_turning_keeps_lengths_and_the_first_token"),
    ("rotation by the opposite angle", ROTARY, "cos, sin = angles.cos(), angles.sin()",
     "cos, sin = angles.cos(), -angles.sin()", COMPLEX),
    ("features i and i + D / 2 are a pair", ROTARY, "x.unflatten(-1, (-1, 2)).unbind(-1)",
     "x.unflatten(-1, (2, -1)).unbind(-2)", COMPLEX),
    ("frequencies fall twice as fast", ROTARY, "base ** (-i / quarter)",
     "base ** (-2 * i / quarter)", COMPLEX),
    ("base of axial rotation ignored", ROTARY, "magnitudes(head_dim, base))",
     "magnitudes(head_dim, AXIAL_BASE))", COMPLEX),
    ("another base of axial rotation", ROTARY, "AXIAL_BASE = 100.0", "AXIAL_BASE = 10000.0",
     "test_rotary.py::test_they_are_timms test_finetune.py::test_encodings_without_tables"),
    ("another base of mixed rotation", ROTARY, "MIXED_BASE = 10.0", "MIXED_BASE = 100.0", STARTS),
    ("heads start with the same angle", ROTARY, "torch.rand(num_heads, 1)", "torch.rand(1, 1)"
     ".expand(num_heads, 1)", STARTS),
    ("mixed frequencies start along one axis", ROTARY, "+ math.pi / 2", "+ math.pi", STARTS),
    ("angles with the features' 16 bits", ROTARY,
     "dtype = torch.promote_types(self.freqs.dtype, torch.float32)", "dtype = q.dtype", BITS),
    ("sizes of maps become constants of a graph", ROTARY,
     "shape = (rows.shape[0], columns.shape[0], self.freqs.shape[0])",
     "shape = (len(rows), len(columns), len(self.freqs))", GRAPHS),
    ("frequencies of axial rotation not saved", ROTARY,
     'self.register_buffer("freqs", magnitudes(head_dim, base))',
     'self.register_buffer("freqs", magnitudes(head_dim, base), persistent=False)', FIRST),
    ("queries and keys of two maps are turned", FUNCTION, "if maps.queries != maps.keys:",
     "if False:", TWO_MAPS),
    ("the layer's rotation ignored", LAYER, "rope=self.rope,", "rope=None,",
     "test_other_encodings.py::test_it_changes_attention"),
    # ---- continuous bias ----
    ("bias with rows and columns exchanged", BIAS,
     "torch.stack([rows[:, None].expand(shape), columns.expand(shape)], dim=-1)",
     "torch.stack([columns.expand(shape), rows[:, None].expand(shape)], dim=-1)", LOOP),
    ("bias of the opposite offset", BIAS, "places[:, None] - places + length - 1",
     "places - places[:, None] + length - 1", LOOP),
    ("bias of offsets that are not logarithmic", BIAS,
     "(1 + 8 * offsets.abs() / NORM).log2() / 3", "offsets.abs() / NORM", LOOP),
    ("bias that forgets the direction", BIAS, "offsets.sign() * (1", "(1", LOOP),
    ("bias without its factor", BIAS, "LARGEST = 16.0", "LARGEST = 1.0", LOOP),
    ("bias without sigmoid", BIAS, "self.mlp(places).sigmoid()", "self.mlp(places)", LOOP),
    ("bias of another query column", BIAS, "rows + torch.arange(width, device=x.device)[:, None]",
     "rows + torch.arange(width, device=x.device).flip(0)[:, None]", LOOP),
    ("bias starts with an effect", BIAS, "nn.init.zeros_(last.weight)",
     "nn.init.normal_(last.weight)", "test_continuous_bias.py::test_it_starts_without_effect"),
    ("bias with 16 bits under autocast", BIAS, "with without_autocast(weight.device.type):",
     "if True:", "test_continuous_bias.py::test_it_keeps_its_32_bits_under_autocast"),
    ("the layer's bias ignored", LAYER, "return self.rpe_k if self.cpb is None else self.cpb",
     "return self.rpe_k", WAYS),
    # ---- options, weights ----
    ("first values of encodings are drawn again", TRANSFORMER, "module.reset_parameters()",
     "pass", FIRST),
    ("base in the string ignored", STRINGS, "RotaryConfig(base=_base(text))", "RotaryConfig()",
     "test_other_encodings.py::test_strings_give_their_configurations"),
    ("rope-mixed is rope-axial", STRINGS, "RotaryConfig(mixed=True, base=MIXED_BASE)",
     "RotaryConfig()", "test_other_encodings.py::test_strings_give_their_configurations"),
    ("heads of features that are no pairs accepted", OPTIONS, "if features % 4 and",
     "if False and", UNFIT),
    ("--attention fused accepted without tables", OPTIONS,
     "if encoding is not None and not isinstance(encoding, RPEConfig):", "if False:", UNFIT),
    ("base not inferred from frequencies", FITTING, "if len(value) > 1 and 0 < value[1] < 1:",
     "if False:", BASE),
    ("frequencies of no base accepted", FITTING, "if wanted is None or not torch.allclose",
     "if False and not torch.allclose", BASE),
    ("frequencies of another base loaded", FINETUNE, '"rpe_v", "rope", "cpb")', '"rpe_v", "cpb")',
     "test_finetune.py::test_encodings_without_tables"),
    # ---- what is shown ----
    ("shown attention without its rotation", MAPS, "if layer.rope is None or maps is None:",
     "if True:", PARTS),
    ("shown attention without its bias", MAPS, "layer.rpe_q, layer.on_keys, masks",
     "layer.rpe_q, layer.rpe_k, masks", PARTS),
    ("shown bias of the opposite offset", SHOWN, ".flip(1, 2)", "", AROUND),
    ("shown bias with its mean", SHOWN, "values - values[:, reached].mean(-1)[:, None, None]",
     "values", AROUND),
    ("offsets shown that no map had", SHOWN, "(near[:, None] & far) | (far[:, None] & near)",
     "far[:, None] & far",
     "test_formula_maps.py::test_what_no_map_of_the_training_had_is_blank"),
]  # fmt: skip
