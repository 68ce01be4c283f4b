"""Write and resume a checkpoint in this process, without data."""

import torch

from checkpoints.starting_point import StartingPoint
from detection_task import DETECTION, build_optimizer
from main import get_args_parser
from models import build_model
from tests.helpers.commands import TINY_MODEL
from training.amp import Precision
from training.output_dir import OutputDir
from training.state import TrainState

# A backbone that is not trained makes the files small.
FROZEN = ["--backbone_weights", "imagenet", "--lr_backbone", "0", "--num_classes", "9"]
CAT = {0: "cat"}


class Resumed:
    """A model that is built once, and resumed from checkpoints as main.py does it."""

    def __init__(self):
        self.args = get_args_parser().parse_args([*TINY_MODEL, *FROZEN, "--resume", "any.pth"])
        self.args.rank, self.args.world_size, self.args.distributed = 0, 1, False
        torch.manual_seed(0)
        self.model, _, _ = build_model(self.args)

    def state(self, dataset=None) -> TrainState:
        optimizer = build_optimizer(self.model, self.args)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.args.lr_drop)
        precision = Precision("off", torch.device("cpu"))
        return TrainState(DETECTION, self.model, optimizer, schedule, precision, self.args,
                          {"classes": CAT}, dataset=dataset)  # fmt: skip

    def write(self, path, dataset=None) -> None:
        state = self.state(dataset)
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        state.optimizer.step()
        state.lr_scheduler.step()
        state.complete_epoch({"train_loss": 1.0})
        state.finish_evaluation({"epoch": 0, "train_loss": 1.0, "n_parameters": 7})
        torch.save(state.state_dict(), path)

    def resume(self, path, dataset=None, names=CAT) -> TrainState:
        self.args.resume = str(path)
        start = StartingPoint(self.args)
        self.args = start.open(self.args, OutputDir("").newest_checkpoint)
        start.load_weights(self.model, self.args, names)
        state = self.state(dataset)
        state.load_state_dict(start.checkpoint, 2)
        return state
