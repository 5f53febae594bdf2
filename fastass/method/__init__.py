"""The paper: losses (Eq. 1–8), the objective (Eq. 9–11), and the weight of each batch of a step."""
