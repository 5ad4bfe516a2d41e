"""`poolpilot finetune`: one module for each of its commands."""
