"""`python -m t2ilab` starts the command line."""

from t2ilab.cli import main

if __name__ == "__main__":
    main()
