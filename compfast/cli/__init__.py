"""Parts of the command line: flags, plan, live progress, output."""
