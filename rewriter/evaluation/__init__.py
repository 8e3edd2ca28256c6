"""Does it do what it should? Experiments that compare methods, judged against ground truth or by learned judges."""

FIRST_SEED = 20_000  # of all reported results; settings were chosen on seeds from 50,000 on
FIRST_FACE, FACES = 10_000, 600  # the faces that are judged: the seeds for which it was labelled by eye who wears what
PHOTOS = 100  # that are found in generators; each takes seconds
TITLES = {
    "dome-to-spire": "domes become spires",
    "dome-to-tree": "domes become trees",
    "watermark": "watermarks are removed",
    "light": "light on the ground is removed, or inverted",
    "frontier": "domes become spires: effect against side effect of many settings",
    "add-tree": "a tree where there was none",
    "door-in-the-sky": "a door in the sky",
    "grand-tour-spires": "three rules together: spires",
    "grand-tour-trees": "three rules together: trees",
    "grand-tour-marks": "three rules together: marks",
    "smile": "frowning people smile (the paper's Table 1)",
    "add-glasses": "glasses for all people",
    "remove-earrings": "earrings are removed",
    "bushy-brows": "bushy brows for all people",
    "hats-for-all": "hats for all people",
    "no-shadow-under-hats": "shadows of hats are removed",
    "remove-stamp": "stamps are removed",
}
HANDS = (
    *("dome-to-spire", "dome-to-tree", "add-tree", "no-light-on-ground", "frown-to-smile", "add-glasses"),
    *("remove-earrings", "bushy-brows", "hats-for-all", "no-shadow-under-hats", "remove-stamp"),
)
TITLES |= {f"hands-{name}": f"{name} with masks painted in 10 other ways" for name in HANDS}
