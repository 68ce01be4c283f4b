"""What can be wrong with the values of a data set, whoever holds them."""
