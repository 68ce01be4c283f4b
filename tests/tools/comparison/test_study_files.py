"""Study files: what they may hold, and the line that each mistake gets."""

import pytest

from tests.tools.comparison.made_studies import write_study
from tools.comparison.study import higher_is_better, read_study
from util.errors import UserError


def test_what_a_study_file_says(tmp_path):
    path = write_study(
        tmp_path,
        ('options = "--coco_path data --batch_size 4 --epochs 3"',
         "options = \"\"\"--coco_path 'my data'\n  --batch_size 4\"\"\""),
        ('box = "--dec_rpe box-log"', 'box = ["--dec_rpe", "box-log", "--lr", "1e-3"]'),
    )  # fmt: skip
    study = read_study(path)
    assert study.options == ["--coco_path", "my data", "--batch_size", "4"]
    assert list(study.configurations) == ["none", "box"] and study.seeds == [1, 2, 3]
    args = study.expected_args("box", 2)
    assert (args.coco_path, args.lr, args.seed) == ("my data", 1e-3, 2)
    assert study.expected_args("none", 3).lr == 1e-4
    assert (study.metric, study.thresholds, study.image_sizes) == ("", [0.5], [])


def test_a_study_of_classifiers(tmp_path):
    pytest.importorskip("timm")
    path = write_study(
        tmp_path,
        ('"main.py"', '"classification/main.py"'),
        ('"--coco_path data --batch_size 4 --epochs 3"', '"--data-path d --model-kwargs depth=2"'),
        ("--dec_rpe box-log", "--enc_rpe2d rpe-1.9-product-ctx-1-k"),
    )
    study = read_study(path)
    args = study.expected_args("box", 1)
    assert (args.data_path, args.model_kwargs, args.seed) == ("d", ["depth=2"], 1)
    assert study.command.metric_names() == {"test_acc1": "acc1"}


def test_names_of_the_detectors_metrics(tmp_path):
    names = read_study(write_study(tmp_path)).command.metric_names()
    assert names == {
        "test_PQ_all_pq": "PQ", "test_coco_eval_masks_AP": "AP of masks",
        "test_coco_eval_bbox_AP": "AP of boxes",
    }  # fmt: skip


def test_of_losses_and_errors_less_is_better():
    assert not higher_is_better("test_loss_giou") and not higher_is_better("test_class_error")
    assert higher_is_better("test_coco_eval_bbox_AP50") and higher_is_better("test_acc1")


SEEDS, BOX, OPTIONS = "seeds = [1, 2, 3]", 'box = "--dec_rpe box-log"', "--coco_path data"
CASES = [
    ("no TOML", SEEDS, "seeds = [1, 2", "not valid TOML .*line 6"),
    ("unknown key", SEEDS, "seed = [1]", r"seed is no key of a study file; these are: title, com"),
    ("no seeds", SEEDS, "", "seeds is missing"),
    ("empty seeds", SEEDS, "seeds = []", "seeds has 0 entries"),
    ("a seed twice", SEEDS, "seeds = [1, 2, 1]", "seeds has 1 more than once"),
    ("a seed that is a text", SEEDS, 'seeds = [1, "2"]', r"seeds\[1\] is '2', not a whole number"),
    ("a seed that is true", SEEDS, "seeds = [true]", r"seeds\[0\] is True, not a whole number"),
    ("one seed, no list", SEEDS, "seeds = 1", "seeds is 1, not a list"),
    ("title of a number", 'title = "made up"', "title = 1", "title is 1, not a string"),
    ("another command", '"main.py"', '"train.py"', "command is 'train.py', not main.py or class"),
    ("no such baseline", 'baseline = "none"', 'baseline = "non"',
     "baseline is 'non', none of configurations: none, box"),
    ("a threshold of text", "[0.5]", '["x"]', r"thresholds\[0\] is 'x', not a number"),
    ("a threshold of NaN", "[0.5]", "[nan]", r"thresholds\[0\] is nan, not a finite number"),
    ("a size of 0", "thresholds = [0.5]", "image_sizes = [0]", r"image_sizes\[0\] is 0"),
    ("a size that the command refuses", "thresholds = [0.5]", "image_sizes = [16]",
     "image_sizes: argument --image_size: must be a whole number from 32"),
    ("a size twice", "thresholds = [0.5]", "image_sizes = [64, 64]", "image_sizes has 64 more"),
    ("no metric", "thresholds = [0.5]", 'metric = ""', "metric is empty"),
    ("options of a number", BOX, "box = 1", "configurations.box is 1, not a string or a list"),
    ("a list of numbers", BOX, "box = [1]", "configurations.box is a list of 1, not a string or"),
    ("a table in the table", BOX, 'box.a = ""', "configurations.box is a dict of 1, not"),
    ("an open quote", BOX, "box = \"--lr '1\"", r"configurations.box cannot be split .*quotation"),
    ("a name that is a path", BOX, '"../x" = "--lr 1"', "configurations.'../x' is a folder's"),
    ("an option of the study", BOX, 'box = "--seed 3"', "configurations.box: --seed is not for"),
    ("the same, abbreviated", BOX, 'box = "--output x"', "configurations.box: --output_dir is not"),
    ("a common option of it", OPTIONS, "--resume auto", "options: --resume is not for study files"),
    ("--eval", OPTIONS, "--eval", "options: --eval is not for study files"),
    ("no such option", BOX, 'box = "--no_such 1"', "configurations.box: unrecognized arg.*no_such"),
    ("no such common option", OPTIONS, "--no_such", "options: unrecognized arguments: --no_such"),
    ("a wrong value", BOX, 'box = "--epochs 0"', "configurations.box: argument --epochs: must be"),
    ("--help", BOX, 'box = "--help"', "configurations.box: unrecognized arguments: --help"),
    ("twice the same", BOX, 'box = "--lr 1e-4"',
     "configurations.box: means the same options as configurations.none"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_mistakes_name_file_and_key(tmp_path, old, new, says):
    path = write_study(tmp_path, (old, new))
    with pytest.raises(UserError, match=says) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_files_that_are_no_studies(tmp_path):
    for content, says in (
        (b"\xff\xfe", "is not a text in UTF-8"),
        (b"configurations = " + b"[" * 100_000, "not valid TOML"),
        (b"", "title is missing"),
        (b'title = "x"\ncommand = "main.py"\nseeds = [1]\nbaseline = "a"\nconfigurations = []',
         "configurations is not a table"),
    ):  # fmt: skip
        path = tmp_path / "study.toml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            read_study(path)
    with pytest.raises(UserError, match="no such study file"):
        read_study(tmp_path / "nothing.toml")
    with pytest.raises(UserError, match="is not a regular file"):
        read_study(tmp_path)


def test_the_example_is_a_study_of_the_demo():
    """Its options are those of DEMO_MODEL in the Makefile, but for --dec_rpe."""
    from tests.helpers.commands import ROOT

    study = read_study(ROOT / "studies" / "dec_rpe" / "study.toml")
    lines = (ROOT / "Makefile").read_text().replace("\\\n", " ").splitlines()
    (demo,) = (line.partition(":=")[2].split() for line in lines if line.startswith("DEMO_MODEL"))
    wanted = study.command.parse(demo, "Makefile")
    for number, name in enumerate(study.configurations):
        args = study.expected_args(name, 1)
        assert args.dec_rpe == (wanted.dec_rpe if number else "")
        own = {"dec_rpe", "lr", "lr_backbone", "epochs", "lr_drop", "seed", "coco_path", "given"}
        assert {n: v for n, v in vars(args).items() if n not in own} == {
            n: v for n, v in vars(wanted).items() if n not in own
        }
        assert (args.lr, args.lr_backbone, args.epochs, args.lr_drop) == (1e-3, 1e-3, 24, 20)
    assert study.seeds == [1, 2, 3, 4, 5]
