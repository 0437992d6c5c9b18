"""Dictionaries in folders and on the Hub, under the name that model cards print."""

from moediff.exchange.hub import load_folder, load_pretrained, push, save_folder

__all__ = ["load_folder", "load_pretrained", "push", "save_folder"]
