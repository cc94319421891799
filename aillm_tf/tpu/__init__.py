"""Cloud TPU without one: compile a recipe's step for a topology, estimate what it holds and costs, and lint it."""
