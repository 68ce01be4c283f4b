"""Mistakes in tools: what a model is said to cost, pictures of detections, videos."""

COUNTS, PARTS = "tools/model_cost/counts.py", "tools/model_cost/parts.py"
MEASURING = "tools/model_cost/measuring.py"
LAYER = "test_cost.py::test_products_of_an_encoder_layer"
DETECTOR = "test_cost.py::test_products_of_a_detector"
OPTIONS, MACHINE = "tools/model_cost/of_options.py", "util/machine.py"
TABLE = "test_compare.py::test_a_table_worked_out_by_hand"
CHECKPOINT = "test_cost_command.py::test_a_checkpoint_and_the_same_options_cost_the_same"
MODES = "test_cost_times.py::test_passes_and_modes"
DRAWING, LOW = "util/pictures/drawing.py", "tools/image_files/low_scores.py"
READING, DETECTION = "tools/video/reading.py", "tools/video/detection.py"
VIDEO = "test_predict_video.py"
CURVES, SUMMARY = "tools/error_analysis/score_curves.py", "tools/error_analysis/summary.py"
F1 = "test_score_curves.py::test_numbers_worked_out_by_hand"
DIGITS = "test_score_curves.py::test_the_threshold_has_as_few_digits_as_keep_the_same_detections"
SAME = "test_score_curves.py::test_a_curve_is_what_summaries_with_each_threshold_say"

CLI, START = "util/cli/__init__.py", "test_first_seconds.py"
GIVEN = "test_checkpoint_argument.py"

MUTANTS = [
    # ---- costs ----
    ("operations instead of multiply-accumulates", COUNTS, "get_total_flops() // 2",
     "get_total_flops()", DETECTOR),
    ("products of whatever attention is chosen", COUNTS, 'module.attention = "math"', "pass",
     LAYER),
    ("products on the part that runs next", COUNTS,
     "            self.book()\n            self._running.append(part)",
     "            self._running.append(part)\n            self.book()", DETECTOR),
    ("the box head's calls by the decoder are the decoder's", COUNTS,
     "self._running.append(part)", "self._running.append(self._running[-1] if self._running[1:] "
     'and self._running[-1] == "decoder" else part)',
     "test_cost.py::test_products_of_reference_boxes"),
    ("frozen parameters are trained", COUNTS, "parameter.requires_grad or not trained", "True",
     "test_cost.py::test_parameters_by_part"),
    ("tables of values are of the encoder alone", PARTS, r'"transformer\.encoder\..*\.(rpe_[qkv]|',
     r'"transformer\.encoder\..*\.(rpe_[qk]|', "test_cost.py::test_parameters_of_other_detectors"),
    ("an encoder without its encoding", PARTS, "for n in (part.name, *inner)",
     "for n in (part.name,)", "test_cost.py::test_rows_of_a_table"),
    ("what no part claims is not in the total", PARTS, "sum(values.values())",
     "sum(values.get(part.name, 0) for part in parts)", "test_cost.py::test_rows_of_a_table"),
    ("a checkpoint's model with other options", "tools/cost.py", "with_options(detector.args,",
     "with_options(options_of_main().parse_args([]),", CHECKPOINT),
    ("times with those that warm up", MEASURING, "seconds[WARM_UP:]", "seconds",
     "test_cost_times.py::test_the_median_is_of_passes_after_the_first_two"),
    ("backward passes of a model in evaluation", MEASURING, 'model.train(name != "forward")',
     "model.eval()", MODES),
    ("memory of an earlier peak", MEASURING, "not on_gpu and peak == before", "False",
     "test_cost_times.py::test_memory_is_left_out_where_it_cannot_be_trusted"),
    # ---- of the runs of a study ----
    ("images of a detector are square", OPTIONS, "subject.default_size",
     "2 * (args.image_size,)", "test_cost_of_options.py::test_a_detector"),
    ("weights of timm are downloaded to be counted", OPTIONS,
     'with_options(args, resume="weights that are not read")', "args",
     "test_cost_of_options.py::test_a_model_of_timm_costs_what_torchvision_says_of_its_own"),
    ("a detector that is not counted ends the study", "tools/comparison/commands.py",
     "except (UserError, RuntimeError):", "except RuntimeError:",
     "test_compare.py::test_a_cost_that_cannot_be_counted_is_left_out"),
    ("each configuration costs what the first one costs", "tools/comparison/results.py",
     "image_cost(runs[0].args)", "image_cost(self.runs[0].args)", TABLE),
    ("millions in the place of thousands of millions", "tools/comparison/table.py",
     "count / 1e9", "count / 1e6", TABLE),
    # ---- the machine ----
    ("the processor's number is its name", MACHINE, 'line.startswith("model name")',
     'line.startswith("model")', "test_machine.py::test_a_processor_is_called_by_its_model"),
    ("cores in the place of threads", MACHINE, "str(torch.get_num_threads())",
     "str(os.cpu_count())", "test_machine.py::test_result_files_agree_about_the_machine"),
    # ---- precision, recall and F1 by threshold ----
    ("detections with equal scores are told apart", CURVES,
     "np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)", "np.arange(len(falling))",
     F1),
    ("F1 that leaves missed objects out", CURVES, "2 * right / (counted + objects)",
     "2 * right / (counted + right)", F1),
    ("a threshold that the next score reaches, too", CURVES, "if np.float32(rounded) > below",
     "if np.float32(rounded) >= 0", DIGITS),
    ("a threshold above its score", CURVES, "np.floor(score * 10**digits)",
     "np.ceil(score * 10**digits)", DIGITS),
    ("a threshold that is printed with six digits", "tools/error_report.py",
     "{curve.best_threshold()}", "{curve.best_threshold():g}",
     "test_score_curves.py::test_all_digits_of_the_threshold_are_printed"),
    ("a class with the objects of all", SUMMARY, "int((objects == label).sum())", "len(objects)",
     SAME),
    ("crowds are objects to be found", SUMMARY,
     "objects = self.annotations.labels[~self.annotations.crowds]",
     "objects = self.annotations.labels", SAME),
    ("detections in crowds are false", SUMMARY, "classes.append(found.labels[~errors.in_crowd])",
     "classes.append(found.labels)", SAME),
    # ---- pictures, low scores, videos ----
    ("captions that are cut at the left and right", DRAWING,
     "left = min(max(x, 0), self.size[0] - width)", "left = x",
     "test_pictures.py::test_captions_lie_inside_of_the_picture"),
    ("the least sure detection on top", DRAWING, "argsort(stable=True)",
     "argsort(descending=True)", "test_pictures.py::test_surer_detections_lie_over_less_sure_ones"),
    ("small images stay small", DRAWING, "SHORT_SIDE, LONG_SIDE = 320", "SHORT_SIDE, LONG_SIDE = 1",
     "test_pictures.py::test_small_images_are_enlarged_by_a_whole_number"),
    ("detections below the threshold look like others", DRAWING, "dashed=not sure", "dashed=False",
     "test_pictures.py::test_detections_below_the_threshold_are_marked"),
    ("a threshold that nothing reaches", LOW, "Context(digits, ROUND_DOWN)", "Context(digits)",
     "test_low_scores.py::test_the_threshold_to_try_is_reached"),
    ("the best few are drawn though others are found", "tools/predict.py", "unsure.clear()", "pass",
     "test_low_scores.py::test_nothing_found_on_some_images"),
    ("a copy without the video's times", "tools/video/writing.py",
     "max(round(seconds / TICK), self._last + 1)", "self._last + 2400",
     f"{VIDEO}::test_a_video_gives_what_its_frames_give"),
    ("videos of phones are turned the other way", READING, "{90: Transpose.ROTATE_90",
     "{90: Transpose.ROTATE_270", f"{VIDEO}::test_a_video_of_a_phone_is_turned_upright"),
    ("red and blue of a camera exchanged", READING, "pixels[:, :, ::-1].copy()", "pixels.copy()",
     f"{VIDEO}::test_a_camera"),
    ("frames before a damage are lost", DETECTION, "    if batch:\n        yield batch\n", "",
     f"{VIDEO}::test_what_is_before_the_damage_is_kept"),
    ("Ctrl-C does not end a video", DETECTION, "if signals.received:", "if False:",
     f"{VIDEO}::test_ctrl_c_leaves_a_video_that_can_be_played"),
    # ---- command lines ----
    ("values are checked before mistakes are answered", CLI, "            action.type = None\n",
     "            pass\n", f"{START}::test_help_and_mistakes_come_before_pytorch[main.py]"),
    ("imports are interrupted by an exception", CLI,
     "signal.signal(signal.SIGINT, _end_at_once)", "pass",
     f"{START}::test_ctrl_c_during_imports[main.py]"),
    ("Ctrl-C ends a command as it ends its imports", CLI,
     "signal.signal(signal.SIGINT, signal.default_int_handler)", "pass",
     f"{START}::test_a_command_gets_ctrl_c_as_an_exception"),
    ("missing files are noticed after the imports", CLI, "for check in parser.file_checks:",
     "for check in ():", f"{START}::test_missing_files_come_before_pytorch"),
    ("each process of a run ends on its own", CLI,
     'if not {"RANK", "SLURM_PROCID"} & os.environ.keys():', "if True:",
     f"{START}::test_processes_of_a_run_agree_on_missing_files"),
    ("checkpoints of tools are looked for late", "training/start/options.py",
     "    parser.file_checks.append(look)\n", "",
     f"{START}::test_missing_files_come_before_pytorch"),
    ("help shows defaults that say nothing", CLI, "action.default is None", "False",
     f"{START}::test_help_and_mistakes_come_before_pytorch[main.py]"),
    ("a run's folder is taken for its checkpoint", "training/start/options.py",
     "source = str(Path(source) / LAST)", "pass", f"{GIVEN}::test_every_spelling_is_the_same"),
    ("of two checkpoints the first is taken", "training/start/options.py",
     "parser.error(f\"{args.checkpoint} and --resume", "print(f\"{args.checkpoint} and --resume",
     f"{GIVEN}::test_none_two_and_an_empty_folder_are_refused"),
    ("a stopped run is resumed from where it began", "util/signals.py",
     "del words[place : place + 2]", "pass", "test_stopping.py::test_reasons_of_its_own"),
    ("files are written over without --force", "util/files.py",
     "    check_no_overwrite(path, force, option)\n", "",
     "test_written_files.py::test_a_tools_file_is_not_written_over"),
    ("a picture of no images", "tools/show_run.py", "if len(dataset) == 0:", "if len(dataset) < 0:",
     "test_show_run.py::test_data_without_images"),
    ("names are mathematics", "util/plot_utils.py", ", bbox=box, parse_math=False)", ", bbox=box)",
     "test_pictures.py::test_names_are_no_mathematics"),
    ("means of one name", "tools/run_curves/options.py", "names.count(mean.name) > 1",
     "names.count(mean.name) > 99",
     "test_differing_runs.py::test_means_of_one_name_are_told_apart"),
]  # fmt: skip
