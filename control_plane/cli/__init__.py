"""The control plane's command line: its arguments and its output."""
