# A shared namespace; mypy finds our part of it in python/.
