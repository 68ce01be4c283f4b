"""Mistakes in what is made of checkpoints, logs and detections."""

FINETUNE, DETECTOR = "checkpoints/finetune.py", "detector.py"
MAPS, BUCKETS = "tools/rpe_inspection/decomposition.py", "tools/rpe_inspection/bucket_maps.py"
KINDS, GRID = "tools/error_analysis/error_types.py", "tools/rpe_inspection/token_grid.py"
LOG = "training/log.py"
KIND = "test_error_kinds.py::test_each_kind"
TUNING = "checkpoints/finetune_options.py"
CHOSEN = "test_finetune_options.py"
CASE = "test_finetune.py::test_names_match_whatever_their_case"
IMAGES = "test_load_detector.py::test_images_of_every_kind"
IMPORTS = "test_package.py::test_what_becomes_of_imports"
COCO_TABLE = "test_log_tables.py::test_names_are_those_of_cocos_table"

FIRST_FILES = "test_checkpoint_files.py::test_a_run_that_goes_on_needs_no_first_files"

MUTANTS = [
    # ---- a new model from another one's weights ----
    ("no-object begins anew", FINETUNE, "target[-1] = source[-1]", "pass", CASE),
    ("names of classes have to be equal to the letter", FINETUNE, ".strip().casefold()", "", CASE),
    ("rows of classes by their number", FINETUNE, "target[label] = source[row]",
     "target[label] = source[label]", CASE),
    ("tables of another encoding are taken", FINETUNE, "if not self._same_rpe and any",
     "if False and any", "test_finetune.py::test_tables_of_another_encoding_are_new"),
    ("the first queries are new", FINETUNE, "target[:count] = source[:count]",
     "target[-count:] = source[:count]",
     "test_finetune.py::test_other_numbers_of_queries_and_layers"),
    # ---- a detector ----
    ("detections in the order of queries", DETECTOR,
     "scores.argsort(descending=True, stable=True)", "torch.arange(len(scores))", IMAGES),
    ("a score of the threshold is too low", DETECTOR, "scores[order] >= threshold",
     "scores[order] > threshold", IMAGES),
    ("masks of a batch have the size of resized images", DETECTOR,
     'for name in ("orig_size", "size")', 'for name in ("size", "orig_size")',
     "test_load_detector.py::test_it_finds_what_an_evaluation_finds"),
    ("class ids below 91 have no names", "checkpoints/compatibility.py",
     "num_classes in (91, 250)", "num_classes == 250",
     "test_load_detector.py::test_names_of_checkpoints_that_do_not_tell"),
    ("a drawing has other detections", DETECTOR, "(found,) = self(picture, threshold)",
     "(found,) = self(picture)", "test_load_detector.py::test_drawings_show_what_is_found"),
    ("addresses are taken for files", "datasets/image_inputs.py", "if re.match(",
     "if False and re.match(", "test_hostile_data.py::test_what_a_detector_cannot_look_at"),
    ("no GPU is one too few", "util/distributed.py", "if count == 0:", "if False:",
     "test_device.py::test_what_python_callers_read_about_a_device"),
    # ---- the package ----
    ("torch.hub takes names of others", "hubconf.py", "from detr_irpe", "from detector",
     "test_package.py::test_beside_other_projects"),
    ("imports of the package are those of a clone", "setup.py", 'if name.suffix == ".py":',
     "if False:", "test_package.py::test_its_modules_import_each_other_by_its_name"),
    ("pages of the package have no style", "detr_irpe/sources.py", '".css", ', "",
     "test_package.py::test_the_package_has_the_files_that_git_has"),
    ("modules named by a string are a clone's", "detr_irpe/sources.py",
     "if isinstance(name, ast.Constant) and", "if False and", IMPORTS),
    ("names that begin alike are ours", "detr_irpe/sources.py", 'module.partition(".")[0] in PARTS',
     "module.startswith(PARTS)", IMPORTS),
    # ---- looking at attention ----
    ("the map of buckets lies upside down", BUCKETS,
     "return ids if on_queries else ids.flip(0, 1)", "return ids",
     "test_attention_maps.py::test_places_of_buckets"),
    ("attention that is shown sees padding", MAPS, "logits += masks", "pass",
     "test_attention_maps.py::test_the_parts_give_the_weights_of_the_pass"),
    ("attention without positions has them", MAPS, "return self.logits.softmax(-1)",
     "return self.weights", "test_attention_maps.py::test_the_parts_give_the_weights_of_the_pass"),
    ("tokens are half as large", GRID, "self.stride * before", "self.stride / 2 * before",
     "test_attention_maps.py::test_tokens_of_points"),
    # ---- kinds of errors ----
    ("near begins later", KINDS, "NEAR = 0.1", "NEAR = 0.3", KIND),
    ("a duplicate is of the wrong class", KINDS, "DUPLICATE if (over & same[i]).any()",
     "DUPLICATE if (over & ~same[i]).any()", KIND),
    ("the least sure detection takes first", KINDS, 'np.argsort(-detections.scores, kind="stable")',
     'np.argsort(detections.scores, kind="stable")', KIND),
    ("calibration counts misses", KINDS, "np.abs(hits - scores).sum()",
     "np.abs(misses - scores).sum()", "test_error_kinds.py::test_calibration"),
    # ---- logs ----
    ("AP of small and of medium objects exchanged", "detection_task.py", '"AP_small", "AP_medium"',
     '"AP_medium", "AP_small"', COCO_TABLE),
    ("AR1 and AR10 exchanged", "detection_task.py", '"AR1", "AR10"', '"AR10", "AR1"',
     COCO_TABLE),
    ("images an hour", LOG, "images / max(seconds, 1e-9)",
     "3600 * images / max(seconds, 1e-9)",
     "test_log_tables.py::test_tables_of_a_run_that_goes_back"),
    # ---- options of --finetune ----
    ("a resumed run is begun anew", TUNING, "    if resumed:", "    if not resumed:", CHOSEN),
    ("the length of the first training", TUNING, "else EPOCHS", "else args.epochs", CHOSEN),
    ("a drop at the end", TUNING, "epochs * 3 // 4", "epochs", CHOSEN),
    ("the checkpoint's average is forgotten", TUNING, 'there["ema"] or EMA', "EMA", CHOSEN),
    ("what is given is overruled", TUNING, "chosen.items() if name not in on_command_line",
     "chosen.items()", CHOSEN),
    ("the losses are those of COCO", TUNING, '"giou_loss_coef", "eos_coef"', '"giou_loss_coef"',
     CHOSEN),
    ("--resume auto decides anew", "checkpoints/starting_point.py",
     "resumed=self.checkpoint is not None", "resumed=False",
     "test_finetune_options.py::test_a_run_and_its_resumption"),
    ("--resume auto needs the first checkpoint", "argument_checks.py", "    if goes_on:\n",
     "    if False:\n", "test_finetune_options.py::test_a_run_and_its_resumption"),
    ("--resume auto needs the first backbone", "argument_checks.py",
     "weights_are_given = goes_on or", "weights_are_given =", FIRST_FILES),
    ("a download for the first machine alone", "util/download.py",
     'if not path.is_file() and env_int("LOCAL_RANK", 0) == 0', "if False",
     "test_download.py::test_each_machine_fetches_a_file_once"),
    ("a checkpoint that cannot be read now is damaged", "util/checkpoint.py",
     "        if reason is not None:", "        if False:", "test_early_stopping.py"),
    ("a lack of memory is damage", "util/checkpoint.py",
     "resource_error(error) if has_checksums else None", "None", "test_early_stopping.py"),
]  # fmt: skip
