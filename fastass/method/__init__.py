"""The paper: losses (Eq. 1–8), the objective (Eq. 9–11) and what each item of a step weighs."""
