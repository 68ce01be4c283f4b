"""Mistakes in reference boxes and the bias that they give the decoder's attention."""

OFFSETS, REFERENCES = "models/box_bias/offsets.py", "models/box_bias/references.py"
BIAS, STRING = "models/box_bias/bias.py", "models/box_bias/dec_rpe.py"
TRANSFORMER, DETR = "models/transformer.py", "models/detr.py"
LAYER = "models/decoder_layer.py"
CENTRES = "test_box_bias.py::test_centres_of_pixels_by_hand"
SCALES = "test_box_bias.py::test_scales"
SAM3 = "test_box_bias.py::test_log_offsets_are_those_of_sam_3"
LOOP = "test_box_bias.py::test_bias_equals_a_loop"
RELATIONS = "test_box_bias.py::test_relations_by_hand"
KEPT = "test_box_bias.py::test_the_bias_of_all_pixels_is_not_kept"
DECODER = "test_reference_boxes.py::test_decoder_equals_a_loop"
DETACHED = "test_reference_boxes.py::test_gradients_stop_between_layers"
REFINED = "test_reference_boxes.py::test_each_layer_predicts_its_refined_boxes"
FLOAT32 = "test_reference_boxes.py::test_boxes_are_float32_in_mixed_precision"
FINETUNE = "test_dec_rpe_checkpoints.py::test_a_plain_detector_finds_the_same_with_reference_boxes"

MUTANTS = [
    # ---- offsets ----
    ("pixels are where their left edges are", OFFSETS, "(steps + 0.5) / size", "steps / size",
     CENTRES),
    ("places of the padded map", OFFSETS, "inside.any(other)",
     "torch.ones_like(inside).any(other)",
     f"{CENTRES} test_reference_boxes.py::test_padding_changes_nothing"),
    ("rows and columns of places exchanged", OFFSETS, "((2, 1), (1, 2))", "((1, 2), (2, 1))",
     CENTRES),
    ("offsets from the centre and the size", OFFSETS, "box_cxcywh_to_xyxy(boxes)[:, :, None]",
     "boxes[:, :, None]", "test_box_bias.py::test_offsets_by_hand"),
    ("offsets have the opposite sign", OFFSETS, "y[:, None, :, None] - corners[..., 1::2]",
     "corners[..., 1::2] - y[:, None, :, None]", f"test_box_bias.py::test_offsets_by_hand {SAM3}"),
    ("log offsets without a sign", OFFSETS, "scaled.sign() * ", "", f"{SCALES} {SAM3}"),
    ("log offsets not divided", OFFSETS, " / math.log2(LOG_SCALE)", "", f"{SCALES} {SAM3}"),
    ("log offsets in other parts", OFFSETS, "LOG_SCALE = 8", "LOG_SCALE = 16", f"{SCALES} {SAM3}"),
    ("distances by the other box's size", OFFSETS, "/ sizes[:, :, None]", "/ sizes[:, None]",
     RELATIONS),
    ("sizes the other way round", OFFSETS, "logs[:, :, None] - logs[:, None]",
     "logs[:, None] - logs[:, :, None]", RELATIONS),
    ("boxes without a size", OFFSETS, "sizes.clamp(min=SMALLEST)", "sizes", RELATIONS),
    # ---- the bias ----
    ("networks of the axes exchanged", REFERENCES, '(("x", x_offsets), ("y", y_offsets))',
     '(("y", x_offsets), ("x", y_offsets))', f"{LOOP} {SAM3}"),
    ("bias of rows alone", BIAS, " + self.columns[..., None, :]).", ").expand(\n"
     "            *self.rows.shape, self.columns.shape[-1]).clone().", LOOP),
    ("columns before rows", BIAS, "self.rows[..., None] + self.columns[..., None, :]",
     "self.rows[..., None, :] + self.columns[..., None]", LOOP),
    ("boxes look at padding", BIAS, "return bias.add_(padding[:, None, None]).", "return bias.",
     LOOP),
    ("bias that is not neutral", REFERENCES, "parameter.zero_()", "pass",
     "test_box_bias.py::test_new_bias_is_neutral"),
    ("bias not made neutral", TRANSFORMER, "self.decoder.references.start_neutral()", "pass",
     FINETUNE),
    ("the bias of all pixels is kept", BIAS, "return checkpoint(attend, *inputs, "
     "use_reentrant=False)", "return attend(*inputs)", KEPT),
    ("no bias from relations", LAYER, "None if box_bias is None else box_bias.pairs", "None",
     DECODER),
    # ---- reference boxes ----
    ("boxes do not refine the last ones", REFERENCES, "change + self.relative * logits", "change",
     f"{DECODER} {REFINED}"),
    ("gradients pass from layer to layer", REFERENCES, "logits = found[-1].detach()",
     "logits = found[-1]", DETACHED),
    ("no gradient for the first boxes", REFERENCES, "logits, found = self.initial(queries), []",
     "logits, found = self.initial(queries).detach(), []", DETACHED),
    ("each layer's reference is the first one", TRANSFORMER,
     "boxes = references.next_boxes(last.transpose(0, 1), boxes, box_head)",
     "boxes = references.initial(query_pos.transpose(0, 1))", DECODER),
    ("the last layer refines no other", DETR, "if not self.aux_loss and references is None:",
     "if not self.aux_loss:", REFINED),
    ("references in 16 bits", "models/autocast.py", "return torch.autocast(device, enabled=False)",
     "return nullcontext()", FLOAT32),
    # ---- options and checkpoints ----
    ("--dec_rpe ignored", TRANSFORMER, "parse_dec_rpe(args.dec_rpe)", "None",
     "test_reference_boxes.py::test_without_it_nothing_changes"),
    ("relation ignored", STRING, "DecRPE(fields[0], len(fields) == 2)", "DecRPE(fields[0])",
     "test_box_bias.py::test_strings"),
    ("relation not inferred", STRING, '"pairs" in parts', "False",
     "test_box_bias.py::test_weights_say_what_they_are"),
    ("a plain detector's boxes are taken for changes", "checkpoints/finetune.py",
     "target.zero_()", "pass", FINETUNE),
    ("reference boxes become Hugging Face's", "tools/hf_detr/config.py",
     "for name in (args.enc_rpe2d, args.dec_rpe):", "for name in (args.enc_rpe2d,):",
     "test_convert_errors.py::test_models_that_transformers_cannot_be"),
    ("a checkpoint's --dec_rpe is not looked at", "checkpoints/compatibility.py",
     '    "dec_rpe",\n', "", "test_dec_rpe_checkpoints.py::test_options_that_do_not_fit"),
    ("boxes that are shown are those after the layer", "tools/rpe_inspection/view.py",
     "record.references[0, queries]", 'record.outputs["pred_boxes"][0, queries]',
     "test_show_rpe.py::test_reference_boxes"),
]  # fmt: skip
