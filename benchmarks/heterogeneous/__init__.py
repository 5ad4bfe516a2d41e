"""Mixed fleets beside fleets of one GPU type: the comparisons of the literature on our performance model, and a case
study, planned and then simulated in worlds that are not what the planner believes."""
