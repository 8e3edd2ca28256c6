"""Single units: which draw what (agreement, dissect), painting with them (thing), what refuses (survival)."""
