"""The parts of `poolpilot finetune`, a file each."""
