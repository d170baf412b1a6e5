"""The command line: one file a verb; the only room that parses arguments, prints and exits."""
