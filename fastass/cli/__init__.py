"""The commands of the command line, one a file; `fastass.cli.main` lists them."""
