"""Mistakes in the comparison of configurations over seeds."""

STATISTICS = "tools/comparison/seed_statistics.py"
FOUND, RESULTS = "tools/comparison/found_runs.py", "tools/comparison/results.py"
CLAIMS = "tools/comparison/claims.py"
CHILDREN, STUDY = "tools/comparison/children.py", "tools/comparison/study.py"
BY_HAND = "test_seed_statistics.py::test_numbers_worked_out_by_hand"
COVERS = "test_seed_statistics.py::test_intervals_cover_what_they_claim"
TABLE = "test_compare.py::test_a_table_worked_out_by_hand"
SIZES = "test_study_schedule.py::test_finished_runs_are_evaluated_at_other_sizes"

MUTANTS = [
    # ---- statistics ----
    ("the deviation of a whole population", STATISTICS, "mean(values), stdev(values)",
     "mean(values), stdev(values) * math.sqrt((count - 1) / count)", BY_HAND),
    ("one degree of freedom too many", STATISTICS, "count - 1)) * std", "count)) * std", BY_HAND),
    ("an interval that is open to one side", STATISTICS, "(1 + confidence) / 2", "confidence",
     COVERS),
    ("differences to the mean of the baseline", STATISTICS, "value - theirs[seed]",
     "value - fmean(theirs.values())",
     "test_seed_statistics.py::test_differences_are_of_the_same_seed"),
    ("a lower loss is worse", STATISTICS, "return WORSE if higher_is_better else BETTER",
     "return WORSE", "test_seed_statistics.py::test_verdicts"),
    ("a band over the seeds that are there", STATISTICS, "set.intersection(", "set.union(",
     "test_seed_statistics.py::test_bands_are_over_all_seeds_or_not_there"),
    # ---- claims ----
    ("a claim whose groups are exchanged", CLAIMS, "(self.better, self.worse))",
     "(self.worse, self.better))",
     "test_claims.py::test_the_difference_of_two_groups_by_hand"),
    ("a claim by the first configuration of a group", CLAIMS,
     "for name in group]", "for name in group[:1]]",
     "test_claims.py::test_the_difference_of_two_groups_by_hand"),
    ("a claim that a diverged run decides", CLAIMS, "higher_is_better, selected)",
     "higher_is_better, False)",
     "test_claims.py::test_a_seed_counts_where_all_configurations_have_it"),
    ("a claim over the seeds of some configurations", CLAIMS, "set.intersection(", "set.union(",
     "test_claims.py::test_a_seed_counts_where_all_configurations_have_it"),
    ("a contradicted claim is not shown", CLAIMS, "WORSE: CONTRADICTED", "WORSE: NOT_SHOWN",
     "test_claims.py::test_verdicts"),
    ("a claim about another size of images", RESULTS,
     "self.values if claim.size is None else self.sizes[claim.size]", "self.values",
     "test_claims.py::test_claims_are_in_the_table_and_in_the_json"),
    # ---- what is made of runs ----
    ("a verdict by the seeds that did not diverge", RESULTS, "self.higher, selected)",
     "self.higher, False)",
     "test_compare.py::test_numbers_that_are_not_finite_are_said_and_give_no_verdict"),
    ("the best epoch counts, not the last", RESULTS, "return self._number(run.epochs[-1])",
     "return max(map(self._number, run.epochs))",
     "test_compare.py::test_of_a_loss_less_is_better"),
    ("a step's time is a mean over epochs", FOUND, "return median(times) if times",
     "return sum(times) / len(times) if times", TABLE),
    ("an epoch has the steps after a stop", FOUND, "self.steps_of(max(images))",
     "self.steps_of(min(images))", TABLE),
    ("runs of other learning rates are taken", "training/start/record.py",
     '"output_dir", "resume", "given",',
     '"output_dir", "resume", "lr", "given",',
     "test_compare.py::test_a_run_with_other_options_is_refused"),
    ("an epoch that is not evaluated is the end", FOUND, 'content.get("pending") is not None',
     "False", "test_compare.py::test_an_epoch_that_is_not_evaluated_yet_is_not_the_end"),
    ("an evaluation of another run counts", "tools/comparison/evaluations.py",
     'json.dumps(content["of"], sort_keys=True) != ', "False and ", SIZES),
    # ---- what is started ----
    ("one configuration after the other", FOUND,
     "for seed in study.seeds\n        for configuration in study.configurations",
     "for configuration in study.configurations\n        for seed in study.seeds",
     "test_study_schedule.py::test_all_configurations_of_a_seed_come_first_and_nothing_is_repeated"),
    ("a study may choose what is resumed", STUDY, '"output_dir", "resume", "eval"',
     '"output_dir", "eval"', "test_study_files.py::test_mistakes_name_file_and_key"),
    ("signals end at the study", CHILDREN, "self._child.send_signal(signum)", "pass",
     "test_study_children.py::test_a_signal_is_handed_on_once_and_nothing_is_started_after_it"),
    ("a child outlives a killed study", CHILDREN, "prctl(PR_SET_PDEATHSIG, signal.SIGTERM)", "pass",
     "test_study_children.py::test_a_child_of_a_killed_study_is_told_to_stop"),
    ("jobs that wait are submitted again", "tools/comparison/schedule.py",
     'if state and not state.startswith("ended")', 'if state == "RUNNING"',
     "test_study_schedule.py::test_jobs_are_submitted_for_what_is_missing"),
    ("curves of one evaluation", "tools/comparison/picture.py", "if any(len(points) > 1",
     "if any(len(points) > 0", "test_study_picture.py::test_one_evaluation_makes_no_curve"),
]  # fmt: skip
