"""The command line: configs composed from arguments, errors in one line, help, and the register of commands."""
