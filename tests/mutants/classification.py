"""Mistakes in image classification: DeiT with iRPE, its names and its weights."""

ATTENTION, DEIT = "classification/attention.py", "classification/deit.py"
ZOO, CHECKPOINTS = "classification/zoo.py", "classification/checkpoints.py"
FOLDERS = "classification/hugging_face.py"
LOOP = "test_deit_formulas.py::test_each_method_and_place[product-ctx-qkv-True]"
DISTILLED = (
    "test_deit_formulas.py::test_two_extra_tokens_share_a_bucket_and_have_a_head_each[False]"
)
SIZES = "test_deit_sizes.py::test_three_ways_to_another_size_are_one"
SAVING = "test_deit_sizes.py::test_gradient_checkpointing_keeps_the_map_of_each_image"
MASKS = "test_deit_sizes.py::test_masks_are_timms"
INITIAL = "test_deit_models.py::test_initial_values"
DROPOUT = "test_deit_models.py::test_dropout_is_where_the_published_one_is"
PARAMETERS = "test_deit_models.py::test_parameters_to_the_digit"
PUBLISHED = "test_deit_checkpoints.py::test_a_published_checkpoint"
CLASSES = "test_deit_checkpoints.py::test_other_classes_keep_all_but_the_heads"
FOLDER = "test_deit_hugging_face.py::test_logits_are_those_of_transformers"

MUTANTS = [
    # ---- attention and the map ----
    ("a map whose height and width are swapped", DEIT,
     "TokenMap(height, width, self", "TokenMap(width, height, self", LOOP),
    ("the distillation token taken for a patch", DEIT,
     "TokenMap(height, width, self.num_prefix_tokens)", "TokenMap(height, width, 1)", DISTILLED),
    ("encodings of queries and keys exchanged in DeiT", ATTENTION,
     "v, self.rpe_q, self.rpe_k, self.rpe_v", "v, self.rpe_k, self.rpe_q, self.rpe_v",
     "test_deit_formulas.py::test_each_method_and_place[product-ctx-k-True]"),
    ("values of DeiT without their encoding", ATTENTION,
     "self.rpe_q, self.rpe_k, self.rpe_v, hw", "self.rpe_q, self.rpe_k, None, hw", LOOP),
    ("a mask of DeiT that forbids what it should allow", ATTENTION, "mask = ~mask", "pass", MASKS),
    ("attention dropout in evaluation", ATTENTION,
     "self.attn_drop.p if self.training else 0.0", "self.attn_drop.p",
     "test_deit_models.py::test_dropout_acts_in_training_alone"),
    ("blocks that keep their activations all the same", ATTENTION,
     "if self.grad_checkpointing and torch", "if False and torch", SAVING),
    ("ids of buckets from the cache inside of a compiled graph", "rpe_ops/irpe.py",
     "if is_exporting() or torch.compiler.is_compiling():  # sizes", "if is_exporting():  # sizes",
     "test_deit_sizes.py::test_one_graph_without_breaks"),
    # ---- position embeddings, initial values, dropout ----
    ("position embeddings that are smoothed where they shrink", DEIT,
     "antialias=False", "antialias=True", SIZES),
    ("position embeddings of the class token resized with the others", DEIT,
     "num_prefix_tokens=extra", "num_prefix_tokens=0", SIZES),
    ("a class token that starts near 0, as timm's", DEIT,
     "_draw(getattr(self, name))", "nn.init.normal_(getattr(self, name), std=1e-6)", INITIAL),
    ("tables that do not start at 0", DEIT, "nn.init.zeros_(parameter)", "_draw(parameter)",
     INITIAL),
    ("dropout before the head, as timm has it", DEIT,
     "super().__init__(block_fn=block,", "super().__init__(block_fn=block, drop_rate=drop_rate,",
     DROPOUT),
    ("no dropout after attention and in the MLP", DEIT, '"proj_drop_rate": drop_rate, ', "",
     DROPOUT),
    ("a distillation token that is not decayed", DEIT,
     '{"pos_embed", "cls_token", "reg_token"}', '{"pos_embed", "cls_token", "dist_token"}',
     "test_deit_models.py::test_what_is_not_decayed"),
    # ---- names ----
    ("another encoding under a published name", ZOO,
     '"product_50_shared_qk", "rpe-1.9-product-ctx-1-qk")',
     '"product_50_shared_qk", "rpe-1.9-product-ctx-1-k")', PARAMETERS),
    ("a model with the heads of another size", ZOO, '"small": (384, 6)', '"small": (384, 8)',
     PARAMETERS),
    ("the crop of timm's own models", ZOO, '"crop_pct": 0.875', '"crop_pct": 0.9',
     "test_deit_models.py::test_evaluation_is_prepared_as_published"),
    ("an encoding that a name does not have", ZOO, "config != own", "config == own",
     "test_deit_models.py::test_the_encoding_of_the_name_may_be_repeated"),
    ("a model without its pretrained weights", ZOO, "if pretrained:", "if not name:",
     "test_deit_checkpoints.py::test_pretrained_from_a_file"),
    # ---- weights ----
    ("averaged weights that nobody asked for", CHECKPOINTS,
     "AVERAGES if average else WEIGHTS", "AVERAGES if not average else WEIGHTS", PUBLISHED),
    ("heads left out without a word", CHECKPOINTS,
     "loaded.left_out.append(_with_shape(name, value, own.get(name)))", "pass", CLASSES),
    ("a head that is left out though it fits", CHECKPOINTS,
     "own[name].shape != value.shape):\n            loaded",
     "own[name].shape == value.shape):\n            loaded", PUBLISHED),
    ("a map taken for a square that may be none", CHECKPOINTS,
     "if grid != tuple(new) and new[0] * new[1] == patches:", "if False:",
     "test_deit_checkpoints.py::test_maps_that_are_not_square"),
    ("weights of another encoding accepted", CHECKPOINTS,
     "if encodings[0] and encodings[0] != encodings[1]:", "if False:",
     "test_deit_checkpoints.py::test_weights_of_another_model_are_refused"),
    ("keys and values of a folder exchanged", FOLDERS,
     '("query", "key", "value")]', '("query", "value", "key")]', FOLDER),
    ("a folder with another number of heads accepted", FOLDERS, "if heads != own:", "if False:",
     "test_deit_hugging_face.py::test_what_tensors_do_not_tell"),
]  # fmt: skip
