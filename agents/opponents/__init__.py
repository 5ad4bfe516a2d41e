"""Rules that an agent is compared with, one small file each."""
