"""The net: tests that know the public Python API and the command line alone, and so survive every move inside the package."""
