"""How long one engine iteration takes: a roofline fitted to measured data."""
