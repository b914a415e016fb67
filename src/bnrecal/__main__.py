"""`python -m bnrecal`."""

from bnrecal.commands.main import main

if __name__ == "__main__":
    main()
