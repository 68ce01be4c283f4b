# make demo   train and evaluate on shapes drawn for the purpose, from nothing, on a CPU
# make test   the fast tests
# make lint   ruff

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
SHAPES := data/shapes
DEMO := output/demo

.PHONY: demo test lint
.DELETE_ON_ERROR:

# glibc keeps freed memory for the next tensor, which makes a training step a tenth faster.
demo: export MALLOC_MMAP_MAX_ := 0
demo: export MALLOC_TRIM_THRESHOLD_ := 2147483647
demo: export MALLOC_TOP_PAD_ := 268435456
demo: $(INSTALLED) $(SHAPES)
	$(BIN)/python main.py --coco_path $(SHAPES) --output_dir $(DEMO) --device cpu \
	    --enc_rpe2d rpe-2.0-product-ctx-1-k --pre_norm --hidden_dim 128 --dim_feedforward 512 \
	    --enc_layers 2 --dec_layers 3 --num_queries 12 --dropout 0 \
	    --backbone resnet10 --backbone_weights none --image_size 96 --augment flip \
	    --lr 3e-4 --lr_backbone 3e-4 --batch_size 16 --epochs 18 --lr_drop 15 \
	    --bbox_loss_coef 2 --giou_loss_coef 1 --eval_every 9 --num_workers 0
	$(BIN)/python tools/show_run.py $(DEMO)

test: $(INSTALLED)
	$(BIN)/pytest --numprocesses 2 --quiet -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-dev.txt --constraint constraints.txt
	touch $@

$(SHAPES): | $(INSTALLED)
	$(BIN)/python tools/make_shapes.py $@ --train 4000 --val 400
