"""What runs beside the web app: transcription workers, their engine process, and maintenance."""
