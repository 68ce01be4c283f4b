"""Folders, archives and CIFAR: what the classifier trains on and is evaluated on."""
