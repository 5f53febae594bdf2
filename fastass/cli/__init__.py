"""The commands of the command line, one file per command; `fastass.cli.main` lists them."""
