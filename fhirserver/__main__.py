"""`python -m fhirserver`: the command line."""

from fhirserver.cli import main

if __name__ == "__main__":
    main()
