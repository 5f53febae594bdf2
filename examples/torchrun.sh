#!/bin/bash
# One machine, all of its GPUs; after a crash the group starts again from the last checkpoint.
torchrun --standalone --nproc-per-node gpu --max-restarts 3 \
  -m fastass train gta5_to_cityscapes_csa_500 --resume --amp --backward streamed \
  --init data/resnet101.pth --data-normalize imagenet \
  --data-source data/gta5 --data-target data/cityscapes --out runs/csa_500
