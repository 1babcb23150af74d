"""The life of a run: prepare, train, resume, evaluate, inspect, and what it writes down."""
