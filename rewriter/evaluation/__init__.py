"""Does it do what it should? Measures of edits against the built-in world's exact labels and counterfactuals."""
