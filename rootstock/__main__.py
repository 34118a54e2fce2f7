"""`python -m rootstock`: the same as the installed command."""

from rootstock.main import main

main()
