"""DETR's public names are at DETR's paths, for scripts that import them."""

import importlib
import inspect

import pytest

import engine

NAMES = {
    "datasets": "build_dataset get_coco_api_from_dataset",
    "datasets.coco": "CocoDetection convert_coco_poly_to_mask ConvertCocoPolysToMask "
    "make_coco_transforms build",
    "datasets.coco_eval": "CocoEvaluator convert_to_xywh merge create_common_coco_eval evaluate",
    "datasets.coco_panoptic": "CocoPanoptic build",
    "datasets.panoptic_eval": "PanopticEvaluator",
    "datasets.transforms": "crop hflip resize pad RandomCrop RandomSizeCrop CenterCrop "
    "RandomHorizontalFlip RandomResize RandomPad RandomSelect ToTensor RandomErasing Normalize "
    "Compose",
    "engine": "train_one_epoch evaluate",
    "main": "get_args_parser main",
    "models": "build_model",
    "models.backbone": "FrozenBatchNorm2d BackboneBase Backbone Joiner build_backbone",
    "models.detr": "DETR SetCriterion PostProcess MLP build",
    "models.matcher": "HungarianMatcher build_matcher",
    "models.position_encoding": "PositionEmbeddingSine PositionEmbeddingLearned "
    "build_position_encoding",
    "models.segmentation": "DETRsegm MaskHeadSmallConv MHAttentionMap dice_loss sigmoid_focal_loss "
    "PostProcessSegm PostProcessPanoptic",
    "models.transformer": "Transformer TransformerEncoder TransformerDecoder "
    "TransformerEncoderLayer TransformerDecoderLayer build_transformer",
    "util.box_ops": "box_cxcywh_to_xyxy box_xyxy_to_cxcywh box_iou generalized_box_iou "
    "masks_to_boxes",
    "util.misc": "SmoothedValue all_gather reduce_dict MetricLogger get_sha collate_fn "
    "nested_tensor_from_tensor_list NestedTensor setup_for_distributed "
    "is_dist_avail_and_initialized get_world_size get_rank is_main_process "
    "save_on_master init_distributed_mode accuracy interpolate",
    "util.plot_utils": "plot_logs plot_precision_recall",
}


@pytest.mark.parametrize("module", sorted(NAMES))
def test_names_are_at_their_paths(module):
    found = importlib.import_module(module)
    for name in NAMES[module].split():
        assert callable(getattr(found, name)), name


def test_the_engine_takes_arguments_in_their_order():
    def positional(function) -> list[str]:
        parameters = inspect.signature(function).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    train = "model criterion data_loader optimizer device epoch max_norm"
    assert positional(engine.train_one_epoch) == train.split()
    evaluate = "model criterion postprocessors data_loader base_ds device output_dir"
    assert positional(engine.evaluate) == evaluate.split()
