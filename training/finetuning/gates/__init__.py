"""What a candidate must pass before any traffic meets it; the last gate, the trial, is the sidecar's (`controller.trial`).

Each gate is a function from what it looks at to a `Finding`, and judges nothing but the pair of candidate and incumbent.
"""
