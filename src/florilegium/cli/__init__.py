"""The command line: parse, one library call, print. It begins in `main.py`."""
