"""Single units: which draw what, painting with them, and what refuses them.

Start with `shipped.named(generator, "tree")`, or point at a thing of your own: `thing.choose`. `Thing.stroke` makes
strokes for `Rewriter.paint` and `Rewriter.switch_units`. `agreement` and `dissect` compare units with things,
`survival` says where a painted thing is lost, `gallery` shows the pictures that a unit likes best, and `found` looks
for places alike.
"""
