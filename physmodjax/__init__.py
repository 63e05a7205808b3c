"Simulate, learn and play vibrating strings and membranes."
__version__ = "0.1.0"
