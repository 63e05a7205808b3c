"Simulate, learn and play vibrating strings and membranes."
__version__ = "0.2.0"
