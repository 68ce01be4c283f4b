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
CLASSIFIER, OPTIONS = "classification/classifier.py", "classification/model_options.py"
EVALUATED = "classification/data/evaluated_images.py"
INSPECTED = "classification/tools/inspection/attention.py"
LOCALITY = "classification/tools/inspection/locality.py"
SCORES = "classification/tools/confusions/scores.py"
BY_HAND = "test_use_classifier.py::test_probabilities_by_hand"
SOFTMAX = "test_use_show_rpe.py::test_attention_is_the_softmax_of_the_formula"

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
    ("the crop of timm's own models", ZOO, '"crop_pct": CROP_SHARE', '"crop_pct": 0.9',
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
    # ---- a trained classifier ----
    ("probabilities that are logits", CLASSIFIER, "self.logits(batch).softmax(-1).topk",
     "self.logits(batch).topk", BY_HAND),
    ("images of the shorter side of the crop", EVALUATED, "CROP_SHARE = 0.875", "CROP_SHARE = 1.0",
     "test_use_classifier.py::test_images_are_prepared_as_published"),
    ("small images cropped as large ones", EVALUATED, "SMALL = 32", "SMALL = 0",
     "test_use_classifier.py::test_small_images_are_neither_resized_nor_cropped"),
    ("averaged weights are asked for in vain", CLASSIFIER, "state_of(content, average, source)",
     "state_of(content, False, source)", "test_use_classifier.py::test_averaged_weights"),
    ("the encoding of a model's name forgotten", OPTIONS,
     'text = text or (MODELS[name].enc_rpe2d if name in MODELS else "")', 'text = text or ""',
     "test_use_classifier.py::test_published_models_by_weights_and_name"),
    ("tables without the extra tokens' bucket", OPTIONS,
     "fitting_encodings(tables, RATIOS, skip)", "fitting_encodings(tables, RATIOS)",
     "test_use_classifier.py::test_encodings_are_read_from_tables"),
    ("bad images that nobody counts", "classification/tools/predict.py", "if done < len(paths):",
     "if done < 0:", "test_use_predict.py::test_bad_files_are_named_and_the_others_go_on"),
    ("file names of the batch before", "classification/tools/predict.py",
     "batch = paths[start :", "batch = paths[0 :",
     "test_use_predict.py::test_bad_files_are_named_and_the_others_go_on"),
    ("exported logits that may differ", "classification/tools/export_onnx.py",
     "if not off <= allowed:", "if off > 1e9:",
     "test_use_export.py::test_differences_are_seen"),
    ("a batch size that is fixed", "classification/tools/export_onnx.py",
     'axes = {0: Dim("batch", min=1)}', "axes = {}", "test_use_export.py::test_pytorchs_format"),
    # ---- what tokens attend to ----
    ("the last block's encoding on keys is shown", INSPECTED,
     'if letter != "k" or not is_last', "if letter", SOFTMAX),
    ("queries that are not scaled", INSPECTED, "layer.q_norm(q) * layer.scale", "layer.q_norm(q)",
     SOFTMAX),
    ("extra tokens among the patches' means", INSPECTED, "x[:, record.tokens.skip :]", "x",
     "test_use_show_rpe.py::test_what_the_tables_are_multiplied_with"),
    ("distances with the share on extra tokens", LOCALITY, " / shares.sum(-1)", "",
     "test_use_show_rpe.py::test_mean_distance_is_that_of_a_loop"),
    ("distances of the last block's patches", LOCALITY, " or record.is_last(layer)", "",
     "test_use_show_rpe.py::test_a_local_encoding_makes_attention_local"),
    ("the whole image taken for what the model sees", "classification/tools/inspection/view.py",
     "size, (top, left))", "size)",
     "test_use_show_rpe.py::test_patches_lie_where_the_model_sees_them"),
    # ---- confusions ----
    ("rows and columns of confusions exchanged", SCORES,
     "self.labels[self.seen] * self.num_classes + self.predicted[self.seen]",
     "self.predicted[self.seen] * self.num_classes + self.labels[self.seen]",
     "test_use_error_page.py::test_confusions_are_counted"),
    ("images that were not read are right", SCORES, "self.seen & (self.predicted == self.labels)",
     "self.predicted == self.labels",
     "test_use_error_page.py::test_confusions_are_counted"),
    ("the best images for the worst", SCORES, "np.argsort(-self.loss", "np.argsort(self.loss",
     "test_use_error_page.py::test_numbers_are_those_of_a_loop"),
    ("folders numbered whatever their names", "classification/tools/confusions/labelled.py",
     "return [known[name] for name in folders]", "return list(range(len(folders)))",
     "test_use_error_page.py::test_which_class_a_folder_is"),
    # ---- what needs timm ----
    ("a command of the detector that needs timm", "tools/hf_detr/names.py",
     "from checkpoints.infer_options import BODY", "import timm\nfrom checkpoints.infer_options "
     "import BODY", "test_needs_timm.py::test_the_detector_and_its_tests_need_none"),
    ("tests of classification that nobody misses", "tests/classification/test_needs_timm.py",
     'assert not (prefix / "installed").exists(), MADE_WITH_TIMM', "pass",
     "test_needs_timm.py::test_only_an_environment_of_the_detector_goes_without"),
    ("fused attention of a classifier is not checked", "classification/run.py",
     "        self._check_attention()\n", "",
     "test_deit_sizes.py::test_fused_attention_is_checked_before_the_first_step"),
    ("an image smaller than a patch", "classification/run.py", "args.input_size < max(", "0 > max(",
     "test_deit_sizes.py::test_fused_attention_is_checked_before_the_first_step"),
    ("heads of --model-kwargs not read by tools", "classification/model_options.py",
     'or kwargs.get("num_heads")', 'or kwargs.get("")',
     "test_deit_sizes.py::test_tools_have_the_model_that_was_trained"),
    ("other layers accepted by tools", "classification/model_options.py", "if name not in SHOWN:",
     "if not name:", "test_deit_sizes.py::test_tools_have_the_model_that_was_trained"),
    ("the size of whole patches", "classification/model_options.py", "wanted or size or (grid",
     "wanted or (grid", "test_deit_sizes.py::test_tools_have_the_model_that_was_trained"),
    ("images of a size that a model does not take", "classification/run.py",
     '"strict_img_size", False) and size', '"strict_img_size", False) and not size',
     "test_deit_sizes.py::test_sizes_and_options_that_a_model_does_not_take"),
    ("an empty folder is a class", "classification/data/sources.py",
     "if samples and classes is None and empty:", "if not samples and empty:",
     "test_data.py::test_data_that_cannot_be_used"),
]  # fmt: skip
