"""The parts of `poolpilot evaluate`: what was asked, what is kept, what is shown."""
