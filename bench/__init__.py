"""Side-by-side measurements. Each number stands beside the limit of this machine, measured in the
same run, interleaved; ratios are what counts.
"""
