# make demo   train and evaluate on shapes drawn for the purpose, from nothing, on a CPU
# make demo-masks   masks on top of the demo's detector, which stays as it is
# make demo-panoptic   the demo's detector on patterned grounds: a segment for each pixel
# make demo-classify   classifiers of relations between shapes, with and without the encoding
# make study   a small comparison of configurations over seeds, from nothing
# make test   the fast tests
# make test-slow   the slower ones that .ci/run runs, too
# make test-kill   runs that are killed again and again, and go on
# make test-slurm   jobs in a real Slurm, where its programs are installed
# make mutants   mistakes put into a copy, one at a time: a fast test has to notice each
# make ops    the compiled operators of rpe_ops; demo and test make them, too
# make asan   the tests of these operators under AddressSanitizer
# make lint   ruff, mypy, and the rules of the layout
# make nightly   all there is, hours of it: every test, more kills, more processes
# make help   this list

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
INSTALLED := .venv/installed
OPS := .venv/rpe_ops
SHAPES := data/shapes
PANOPTIC := data/shapes_panoptic
RELATIONS := data/relations
DEMO := output/demo
DEMO_MODEL := --device cpu --enc_rpe2d rpe-2.0-product-ctx-1-k --dec_rpe box-log --pre_norm \
    --hidden_dim 64 --dim_feedforward 256 --enc_layers 2 --dec_layers 3 --num_queries 12 --dropout 0 \
    --backbone resnet10_tiny --backbone_weights none --image_size 96 --augment flip \
    --cache_images --num_workers 0 --bbox_loss_coef 2 --giou_loss_coef 1 --batch_size 16 \
    --clip_max_norm 0 --ema 0.998
# 36 patches of 5 x 5 pixels. Nothing that is random but mirroring: that would need longer runs.
CLASSIFIER := --device cpu --model deit_tiny_patch16_224 --input-size 30 \
    --model-kwargs patch_size=5 embed_dim=64 depth=4 num_heads=4 --drop-path 0 \
    --batch-size 64 --lr 8e-3 --warmup-epochs 1 --warmup-lr 5e-4 --min-lr 1e-5 --epochs 8 \
    --aa none --color-jitter 0 --reprob 0 --mixup 0 --cutmix 0 --smoothing 0 --no-repeated-aug \
    --no-model-ema --num_workers 1
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# All tests of a file run in one process, which makes its data and its trained models once. In the
# order of their names: files of few tests, which are the long ones, would come last otherwise.
PYTEST := $(BIN)/pytest --quiet -rs --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
SLURM_TESTS := slurm and not nightly
FAST := not slow and not nightly and not kill and not slurm

.PHONY: demo demo-masks demo-panoptic demo-classify study test test-slow test-kill test-slurm mutants ops asan lint \
    nightly help
.DELETE_ON_ERROR:

demo: $(OPS) $(SHAPES)
	$(BIN)/python main.py --coco_path $(SHAPES) --output_dir $(DEMO) $(DEMO_MODEL) \
	    --lr 1e-3 --lr_backbone 1e-3 --epochs 18 --lr_drop 15 --eval_every 9
	$(BIN)/python tools/show_run.py $(DEMO)

# The demo writes this picture last.
$(DEMO)/detections.png:
	$(MAKE) demo

demo-masks: $(OPS) $(SHAPES) | $(DEMO)/detections.png
	$(BIN)/python main.py --coco_path $(SHAPES) --output_dir $(DEMO)-masks $(DEMO_MODEL) \
	    --masks --frozen_weights $(DEMO)/checkpoint.pth \
	    --lr 2e-3 --epochs 6 --lr_drop 5 --eval_every 3
	$(BIN)/python tools/show_run.py $(DEMO)-masks

# In two stages, as published: boxes of things and stuff, then masks. The first begins with the
# demo's detector, which knows the things already.
PANOPTIC_DATA := --dataset_file coco_panoptic --coco_path $(PANOPTIC) \
    --coco_panoptic_path $(PANOPTIC) --num_classes 94
demo-panoptic: $(OPS) $(PANOPTIC) | $(DEMO)/detections.png
	$(BIN)/python main.py $(PANOPTIC_DATA) --output_dir $(DEMO)-panoptic-boxes $(DEMO_MODEL) \
	    --finetune $(DEMO)/checkpoint.pth \
	    --lr 1e-3 --lr_backbone 1e-3 --epochs 9 --lr_drop 7 --eval_every 9
	$(BIN)/python main.py $(PANOPTIC_DATA) --output_dir $(DEMO)-panoptic $(DEMO_MODEL) \
	    --masks --frozen_weights $(DEMO)-panoptic-boxes/checkpoint.pth \
	    --lr 1e-3 --epochs 7 --lr_drop 6 --eval_every 7
	$(BIN)/python tools/show_run.py $(DEMO)-panoptic

demo-classify: $(OPS) $(RELATIONS)
	$(BIN)/python classification/main.py --data-path $(RELATIONS) $(CLASSIFIER) \
	    --output_dir $(DEMO)-classify-without
	$(BIN)/python classification/main.py --data-path $(RELATIONS) $(CLASSIFIER) \
	    --enc_rpe2d rpe-1.9-product-ctx-1-k --output_dir $(DEMO)-classify
	$(BIN)/python tools/plot_logs.py $(DEMO)-classify $(DEMO)-classify-without \
	    --output $(DEMO)-classify/comparison.html --force
	$(BIN)/python classification/tools/error_page.py $(DEMO)-classify/checkpoint.pth $(RELATIONS) \
	    --output $(DEMO)-classify/errors.html --force
	$(BIN)/python classification/tools/show_rpe.py $(DEMO)-classify/checkpoint.pth \
	    $(RELATIONS)/val/above/000001.png --output_dir $(DEMO)-classify/attention --force
	$(BIN)/python .ci/demo_scores.py demo-classify-without demo-classify

study: $(OPS) $(SHAPES)
	$(BIN)/python tools/compare.py studies/small/study.toml --output_dir output/study

test: $(OPS)
	$(PYTEST) -m "$(FAST)"

test-slow: $(OPS)
	$(PYTEST) -m "slow and not nightly"

test-kill: $(INSTALLED)
	$(BIN)/pytest --quiet --capture=no -m kill tests/runs/test_kill.py

test-slurm: $(INSTALLED)
	$(BIN)/pytest --quiet -m "$(SLURM_TESTS)" -rs tests/slurm

nightly: lint test demo demo-masks demo-panoptic demo-classify
	$(BIN)/python .ci/demo_scores.py demo demo-masks demo-panoptic
	$(PYTEST) -m "(slow or nightly) and not slurm"
	KILLS=60 $(MAKE) test-kill
	SLURM_TASKS_PER_NODE=2 $(MAKE) test-slurm SLURM_TESTS=slurm
	$(MAKE) mutants asan

mutants: $(OPS)
	$(BIN)/python -m tests.mutants --jobs $(JOBS)

ops: $(OPS)

# CUDA is compiled, too, when there is a toolkit; RPE_OPS_CUDA=0 leaves it out.
$(OPS): $(INSTALLED) rpe_ops/setup.py rpe_ops/toolkit.py rpe_ops/version.py $(wildcard rpe_ops/csrc/* rpe_ops/csrc/*/*)
	@echo "building rpe_ops"
	@cd rpe_ops && ../$(BIN)/python setup.py build_ext --inplace >../$@.log 2>&1 || { \
	    cat ../$@.log; echo "rpe_ops was not built: RPE_OPS_CUDA=0 leaves CUDA out"; exit 1; }
	@$(BIN)/python -m rpe_ops
	@touch $@

# Exit code 1 and a report at the first access outside of a tensor.
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
asan: $(INSTALLED)
	cd rpe_ops && RPE_OPS_CUDA=0 CFLAGS="$(ASAN)" LDFLAGS="$(ASAN)" ../$(BIN)/python setup.py \
	    build_ext --build-lib ../build/asan --build-temp ../build/asan_objects 
	RPE_OPS_LIBRARY=build/asan/rpe_ops/_C.abi3.so ASAN_OPTIONS=detect_leaks=0 \
	    LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	    $(BIN)/pytest --quiet --capture=sys -m "not slow" tests/rpe_ops/test_operator*.py

help:
	@sed -n 's/^# make /make /p' $(firstword $(MAKEFILE_LIST))

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/project/test_layers.py

OLD_PYTHON := Python 3.11 or later is needed. Name one: make PYTHON=python3.12
$(INSTALLED): requirements.txt requirements-classification.txt requirements-video.txt \
    requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(OLD_PYTHON)" or 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-dev.txt --constraint $(CONSTRAINTS)
	touch $@

$(SHAPES): | $(INSTALLED)
	$(BIN)/python tools/make_shapes.py $@ --train 4000 --val 400

$(PANOPTIC): | $(INSTALLED)
	$(BIN)/python tools/make_shapes.py $@ --panoptic --train 6000 --val 400

$(RELATIONS): | $(INSTALLED)
	$(BIN)/python tools/make_relations.py $@
