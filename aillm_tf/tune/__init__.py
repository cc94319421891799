"""Search for better settings of a recipe: `space` says where, `study` runs the trials, `report` shows them."""
