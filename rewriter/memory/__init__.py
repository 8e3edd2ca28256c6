"""THE METHOD: one layer seen as a linear associative memory; tensors in, tensors out."""

DIRECTIONS = ("zca", "mean", "svd", "units")  # ways to choose a rule's row space: `directions.key_directions`
SOLVERS = (  # ways to find Λ: `solve.solve`
    "least-squares",
    "closed-form",
    "projected",
    "projected-whole",
    "direct",
    "unconstrained",
)
FORMS = ("weight", "gated", "template", "units")  # what an edit makes: a change of W, or a memory beside it
SMOOTHNESS = 10.0  # usual λ; chosen with `rewriter evaluate frontier --first 50000`: those seeds are not reported
