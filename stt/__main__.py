"""`python -m stt`."""

from stt.cli import main

if __name__ == "__main__":
    main()
