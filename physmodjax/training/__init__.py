"""Losses, optimisers, checkpoints and the training loop"""
