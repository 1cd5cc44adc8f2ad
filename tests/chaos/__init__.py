"""Random faults under mixed load: what runs (`mesh`), what goes wrong (`faults`), who buys
(`traffic`), what must hold (`test_chaos`).
"""
