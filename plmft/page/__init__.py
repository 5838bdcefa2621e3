"""The page of `python -m plmft.report`: what the runs say of accuracy and cost, the guide, claims and disputes."""
