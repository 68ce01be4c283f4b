"""Mistakes in the training and the evaluation of classifiers."""

DATA, SOURCES = "classification/data/loaders.py", "classification/data/sources.py"
ENGINE = "classification/engine.py"
RESUMING = "classification/resuming.py"
TASK, RUN, ARGUMENTS = (f"classification/{name}.py" for name in ("task", "run", "arguments"))
SUBMIT = "classification/run_with_submitit.py"
RATES = "test_schedule.py::test_the_published_rates"
ANY_EPOCH = "test_schedule.py::test_a_schedule_begins_at_any_epoch[cosine-2]"
CHANGED = "test_schedule.py::test_changed_options_give_the_rates_of_a_run_that_had_them_before"
AVERAGES = "test_optimizers.py::test_averages_of_published_files_are_not_begun_again"
GOES_ON = "test_train.py::test_a_published_run_goes_on"
PLACES = "test_data.py::test_random_choices_are_those_of_the_place_alone"
EACH_PLACE = "test_data.py::test_each_place_of_each_epoch_has_choices_of_its_own"
BY_HAND = "test_data.py::test_accuracies_are_those_counted_by_hand"

MUTANTS = [
    # ---- schedule and optimizer ----
    (
        "the classifier's rate does not lag",
        TASK,
        "self._schedule.step(self.epochs)\n",
        "self._schedule.step(self.epochs + 1)\n",
        RATES,
    ),
    (
        "a resumed classifier's rate does not lag",
        TASK,
        "self._schedule.step(epochs - 1)",
        "self._schedule.step(epochs)",
        ANY_EPOCH,
    ),
    (
        "the rate is for any number of images",
        TASK,
        "args.lr * args.batch_size * args.world_size *",
        "args.lr *",
        RATES,
    ),
    (
        "tables are not decayed",
        TASK,
        "name in NOT_DECAYED",
        "name in NOT_DECAYED or 'rpe' in name",
        "test_schedule.py::test_what_is_decayed_is_as_published",
    ),
    (
        "the class token is decayed",
        TASK,
        '("pos_embed", "cls_token")',
        '("pos_embed",)',
        "test_schedule.py::test_what_is_decayed_is_as_published",
    ),
    (
        "a changed decay of the classifier is forgotten",
        TASK,
        '("betas", *GROUP_OPTIONS.values())',
        '("betas", "eps")',
        CHANGED,
    ),
    (
        "changed betas are forgotten",
        TASK,
        '("betas", *GROUP_OPTIONS.values())',
        "GROUP_OPTIONS.values()",
        CHANGED,
    ),
    (
        "momentum of optimizers that nobody hands on",
        TASK,
        "args.opt, momentum=args.momentum, **options",
        "args.opt, **options",
        "test_optimizers.py::test_sgd_by_hand",
    ),
    (
        "a checkpoint of another optimizer goes on",
        TASK,
        "if kind != args.opt:",
        "if False:",
        "test_optimizers.py::test_options_of_the_run_count",
    ),
    (
        "counts of steps in groups begin anew",
        "training/optimizer.py",
        "(*RATES, *(group.keys() - own.keys()))",
        "RATES",
        "test_optimizers.py::test_each_goes_on_to_the_bit[lamb]",
    ),
    (
        "any number in the state of an optimizer",
        "training/checkpoint_content.py",
        "        tensor(finite=True)(value, place)\n    elif not",
        "        pass\n    elif not",
        "test_optimizers.py::test_a_hostile_state_is_refused",
    ),
    ("an average without steps begins anew", TASK, 'or checkpoint["epoch"] + 1', "or 0", AVERAGES),
    ("steps in groups do not count", TASK, ".values(), *groups)", ".values(),)", AVERAGES),
    (
        "another batch size is another rate",
        TASK,
        'if "accumulate" in options',
        "if False",
        "test_optimizers.py::test_another_batch_size_is_no_other_rate",
    ),
    (
        "a teacher that draws after the resume",
        RUN,
        "            train_one_epoch, model, criterion,",
        "            train_one_epoch, model, "
        "build_criterion(args, build_teacher(args, self.device)),",
        "test_train.py::test_distillation_from_a_model_of_timm",
    ),
    ("a published average begins anew", TASK, "max(steps) or", "0 *", GOES_ON),
    (
        "averages of classifiers under another name",
        TASK,
        'AVERAGE = "model_ema"',
        'AVERAGE = "ema"',
        GOES_ON,
    ),
    # ---- samples ----
    (
        "augmentation is the same in each epoch",
        DATA,
        "{int(self._epoch)} {place}",
        "{place}",
        EACH_PLACE,
    ),
    (
        "repeated images are one sample",
        DATA,
        "first = number * self.batch_size",
        "first = 0",
        EACH_PLACE,
    ),
    (
        "augmentation disturbs the run's generators",
        DATA,
        "random.setstate(before[0])",
        "pass",
        PLACES,
    ),
    (
        "NumPy's choices are not seeded",
        DATA,
        "np.random.seed(np.frombuffer(digest, dtype=np.uint32))",
        "pass",
        "test_data.py::test_seeds_of_all_generators",
    ),
    (
        "evaluated images of timm's crop",
        "classification/data/evaluated_images.py",
        "CROP_SHARE = 0.875",
        "CROP_SHARE = 0.9",
        "test_data.py::test_evaluated_images_are_prepared_as_published",
    ),
    (
        "images of any run are evaluated at 224 pixels",
        DATA,
        "evaluation_transform((args.input_size, args.input_size))",
        "evaluation_transform((224, 224))",
        "test_data.py::test_evaluated_images_are_prepared_as_published",
    ),
    (
        "small images are scaled in training",
        DATA,
        "if args.input_size <= SMALL:",
        "if False:",
        "test_data.py::test_small_images_are_cropped_from_a_margin_in_training",
    ),
    (
        "labels of a split of its own",
        SOURCES,
        "_number(found, self.classes, root)",
        "_number(found, found, root)",
        "test_data.py::test_data_that_cannot_be_used",
    ),
    (
        "an archive in timm's order",
        SOURCES,
        "index = self._order[int(file_name)]",
        "index = int(file_name)",
        "test_data.py::test_an_archive_is_its_folder[True]",
    ),
    # ---- losses and numbers ----
    ("the second guess counts", ENGINE, "best[:, 0].sum()", "best[:, :2].sum()", BY_HAND),
    (
        "means of batches of evaluation",
        ENGINE,
        "losses.sum(), best",
        "losses.mean(), best",
        BY_HAND,
    ),
    (
        "accuracies of one process",
        ENGINE,
        "dist.all_reduce_sum(sums).tolist()",
        "sums.tolist()",
        "test_data.py::test_two_processes_evaluate_as_one",
    ),
    (
        "the classifier is trained in training mode alone",
        ENGINE,
        "model.train(dropout)",
        "model.train()",
        "test_train.py::test_training_in_evaluation_mode_is_the_published_fine_tuning",
    ),
    (
        "a soft teacher without temperature",
        ENGINE,
        "taught = self.tau**2 * F",
        "taught = F",
        "test_distillation.py::test_a_soft_teacher",
    ),
    (
        "the teacher's weight is the label's",
        ENGINE,
        "loss * (1 - self.alpha) + taught * self.alpha",
        "loss * self.alpha + taught * (1 - self.alpha)",
        "test_distillation.py::test_a_soft_teacher",
    ),
    # ---- runs ----
    (
        "gradient checkpointing that nobody switches on",
        RUN,
        "if args.gradient_checkpointing:",
        "if False:",
        "test_train.py::test_gradient_checkpointing_changes_nothing_else",
    ),
    ("no averaged weights are trained", RUN, "average=self.average,", "average=None,", GOES_ON),
    (
        "the averaged weights are not asked for",
        RESUMING,
        "weights = checkpoint[AVERAGE]",
        "pass",
        "test_train.py::test_averaged_weights_are_evaluated_if_asked_for",
    ),
    (
        "a head of other classes is evaluated",
        RESUMING,
        "if loaded.left_out or loaded.new or",
        "if",
        "test_train.py::test_a_file_of_other_classes_is_not_evaluated",
    ),
    (
        "an odd batch is mixed",
        ARGUMENTS,
        "if is_mixed(args) and args.batch_size % 2:",
        "if False:",
        "test_classifier_commands.py::test_options_that_cannot_be",
    ),
    (
        "cutmix alone does not count",
        ARGUMENTS,
        "args.mixup > 0 or args.cutmix > 0 or",
        "args.mixup > 0 or",
        "test_distillation.py::test_the_loss_fits_the_targets",
    ),
    # ---- jobs ----
    (
        "a classifier's job runs the detector",
        SUBMIT,
        "program=run.__name__",
        'program="main"',
        "test_classifier_jobs.py::test_a_classifiers_job_is_the_run_itself",
    ),
    (
        "a classifier's job is submitted unchecked",
        SUBMIT,
        "check=run.check_args",
        "check=str",
        "test_classifier_jobs.py::test_a_classifiers_options_are_checked_before_a_job_is_submitted",
    ),
    (
        "a classifier's job has the detector's time limit",
        SUBMIT,
        ", timeout=2800",
        "",
        "test_classifier_jobs.py::test_published_options_of_a_classifiers_job",
    ),
    (
        "--use_volta32 asks for nothing",
        SUBMIT,
        'dest="constraint", ',
        "",
        "test_classifier_jobs.py::test_published_options_of_a_classifiers_job",
    ),
    (
        "a task imports from the folder of the call",
        "slurm/job.py",
        "sys.path.insert(0, ROOT)",
        "sys.path.append(ROOT)",
        "test_submitit.py::test_a_task_imports_this_projects_modules_from_any_folder",
    ),
]
