"""t2ilab: train text-to-image models through their whole life cycle, and measure every step of it."""

__version__ = "0.1.0"
