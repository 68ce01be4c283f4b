"""Files of weights: do they fit the model, what do they say, what is used of them."""
