"""What leaves the house: the folded graph, its int8 form, and the files made from them."""
