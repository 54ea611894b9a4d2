"""The shell: the one loop that feeds the cycle and carries out its effects, with configuration, logging and signals."""
