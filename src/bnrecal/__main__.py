"""`python -m bnrecal`."""

from bnrecal.commands.run import main

if __name__ == "__main__":
    main()
