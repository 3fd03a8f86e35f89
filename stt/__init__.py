"""stt: the web app, and what it shares with the workers. Nothing here imports torch."""

__version__ = "0.1.0"
