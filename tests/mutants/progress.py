"""Mistakes in what a run shows and records, and in comparing runs by that."""

BAR, RUN, STREAMS = "training/progress/bar.py", "training/progress/run.py", "util/cli/streams.py"
RECORD, OPTIONS = "training/start/record.py", "tools/run_curves/options.py"
MESSAGES = "test_progress_screen.py::test_messages_take_the_place_of_the_bar"
STARTS = "test_record.py::test_each_start_adds_an_entry"
SEEDS = "test_differing_runs.py::test_runs_that_differ_in_the_seed_alone_are_one"
WORKERS = "test_loaders.py::test_workers_are_at_most_one_a_core"

MUTANTS = [
    # ---- what is shown ----
    (
        "epochs are counted from 0",
        RUN,
        "{word} {epoch + 1}/{epochs}",
        "{word} {epoch}/{epochs}",
        "test_progress.py::test_epochs_are_counted_from_1",
    ),
    (
        "lines wider than the terminal",
        BAR,
        "if word and len(longer) <= width:",
        "if word:",
        "test_progress.py::test_what_does_not_fit_is_left_out",
    ),
    (
        "the newest evaluation for the best",
        "training/loop.py",
        "best := Evaluations(state.log, state",
        "best := Evaluations(state.log[-1:], state",
        "test_progress_screen.py::test_a_run_fits_its_terminal",
    ),
    (
        "plot_logs counts epochs from 0",
        "util/plot_utils.py",
        '(row["epoch"] + 1, row[name])',
        '(row["epoch"], row[name])',
        "test_detr_names_util.py::test_logs_are_plotted",
    ),
    ("messages behind the bar", STREAMS, "self._stream.write(CLEAR_LINE)", "pass", MESSAGES),
    (
        "parts of a message over each other",
        STREAMS,
        "if above_bar and not self._in_message:\n                self._stream.write",
        "if above_bar:\n                self._stream.write",
        MESSAGES,
    ),
    (
        "-1 for nothing to find in the line of an evaluation",
        "datasets/score_tables.py",
        '"-" if value == -1 else',
        '"-" if value is None else',
        "test_score_lines.py::test_a_line_for_each_kind",
    ),
    (
        "new weights count as loaded",
        "checkpoints/finetune.py",
        "self.loaded += target[:count].numel()",
        "self.loaded += target.numel()",
        "test_finetune.py::test_other_numbers_of_queries_and_layers",
    ),
    # ---- workers of loaders ----
    (
        "workers without regard to cores",
        "datasets/loaders.py",
        "count = min(args.num_workers, max(1, int(share + 1e-6)))",
        "count = args.num_workers",
        WORKERS,
    ),
    (
        "cores as if each process had them alone",
        "datasets/loaders.py",
        "1 / sharing[core]",
        "1",
        WORKERS,
    ),
    (
        "workers that have ended at once are unknown",
        "datasets/loaders.py",
        'frozenset(getattr(batches, "_workers", ()))',
        "frozenset(multiprocessing.active_children())",
        "test_loader_workers.py::test_a_worker_that_ends_at_once",
    ),
    (
        "PyTorch's handler for workers",
        "datasets/loaders.py",
        "signal_handling._SIGCHLD_handler_set = True",
        "signal_handling._SIGCHLD_handler_set = False",
        "test_loader_workers.py::test_a_worker_that_ends_at_once",
    ),
    (
        "a process that was stopped itself hangs",
        "util/signals.py",
        "if overdue == 2:",
        "if overdue == 1:",
        "test_stopping.py::test_a_run_that_was_stopped_itself_is_left_alone",
    ),
    (
        "the end of a worker before its exit code",
        "datasets/loaders.py",
        "worker.join(limit)",
        "pass",
        "test_loader_workers.py::test_a_worker_that_is_not_gone_yet_is_waited_for",
    ),
    # ---- args.json ----
    (
        "a damaged args.json is lost",
        RECORD,
        "if not before and",
        "if False and",
        "test_record.py::test_a_damaged_file_is_kept_and_begun_anew",
    ),
    (
        "earlier starts forgotten",
        RECORD,
        "starts = [*before, start_of",
        "starts = [start_of",
        STARTS,
    ),
    (
        "ranks and launchers recorded as options",
        RECORD,
        "for name, value in vars(args).items() if name not in NOT_OPTIONS}",
        "for name, value in vars(args).items()}",
        STARTS,
    ),
    (
        "changed code not noticed",
        RECORD,
        '"changed": bool(changes)',
        '"changed": False',
        "test_record.py::test_the_commit_and_whether_files_were_changed",
    ),
    # ---- runs compared ----
    (
        "matters of the machine keep seeds apart",
        OPTIONS,
        'if name not in NOT_COMPARED and name != "seed"',
        'if name != "seed"',
        SEEDS,
    ),
    (
        "a mean over different data",
        OPTIONS,
        "facts = [options, run.data,",
        "facts = [options,",
        SEEDS,
    ),
    (
        "a run that says nothing differs",
        OPTIONS,
        "if facts}) > 1:",
        "}) > 1:",
        "test_differing_runs.py::test_options_that_differ",
    ),
]
