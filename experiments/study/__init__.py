"""SDS against IPSM: batches of trainings, their figures, and what is drawn from these (see ../sds_vs_ipsm.py)."""
