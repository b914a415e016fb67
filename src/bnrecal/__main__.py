"""`python -m bnrecal`."""

from bnrecal.commands.entry import main

if __name__ == "__main__":
    main()
