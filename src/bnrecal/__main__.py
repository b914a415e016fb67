"""`python -m bnrecal`."""

from bnrecal.cli import main

if __name__ == "__main__":
    main()
