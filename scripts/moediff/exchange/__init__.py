"""Dictionaries in the files of other libraries, and on the Hub."""
