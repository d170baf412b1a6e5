"""What a network, a procedure and a study are: frozen values, standard library only."""
